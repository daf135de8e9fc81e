"""Each folder under fixtures/<mapping>/ is a case: input.log, the entries it becomes, and what is set aside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bridge.ledger.store import Ledger
from bridge.model import as_json
from bridge.server.binary import find
from tests.rig import Rig

CASES = sorted((Path(__file__).parent.parent / "fixtures").glob("*/*/input.log"))


@pytest.mark.parametrize("case", CASES, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_case(case: Path, tmp_path: Path) -> None:
    """The input's lines become the expected entries, in order, and the expected reasons; the file is left as it was."""
    rig = Rig.shared(tmp_path, find())
    try:
        rig.write_config(mapping=case.parts[-3])
        rig.log.write_bytes(case.read_bytes())
        assert not rig.once().errors
        found = []
        for entry in rig.entries():
            names, values = entry.fields[0::2], entry.fields[1::2]
            found.append({name.decode(): as_json(value) for name, value in zip(names, values, strict=True)})
        ledger = Ledger(rig.state / "ledger.db")
        aside = [
            {"offset": offset, "reason": reason}
            for offset, reason in ledger.rows("SELECT offset, reason FROM quarantine ORDER BY offset")
        ]
        ledger.close()
        expected = [json.loads(row) for row in (case.parent / "expected.jsonl").read_text().splitlines()]
        assert found == expected
        assert aside == json.loads((case.parent / "verdict.json").read_text())["quarantined"]
        assert rig.log.read_bytes() == case.read_bytes()
    finally:
        rig.close_shared()
