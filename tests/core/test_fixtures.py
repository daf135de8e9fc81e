"""Each folder under fixtures/<mapping>/ is a case: its files, the entries or values they become, what is set aside."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from bridge.core.mapping import load_mapping
from bridge.core.model import as_json
from bridge.ledger.store import Ledger
from bridge.streams.embedded.binary import find
from bridge.streams.reader import entries
from tests.support.project import ROOT
from tests.support.rig import Rig

WRITTEN = 1772442845
"""When all files were written: 2026-03-02T09:14:05Z."""

CASES = sorted(path.parent for path in (ROOT / "fixtures").glob("*/*/verdict.json"))


def carried(rig: Rig, case: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The entries without their IDs, and what is in quarantine."""
    mapping = load_mapping(case.parent.name, case)
    rig.write_config(mapping=mapping.name, extra=f'[[paths]]\nfrom = "{rig.root}"\nto = "/data"\n')
    shutil.copytree(case / "files", rig.root, dirs_exist_ok=True)
    for path in rig.root.rglob("*"):
        os.utime(path, (WRITTEN, WRITTEN))
    assert not rig.once().errors
    found = []
    for entry in entries(rig.redis, mapping.stream.key.encode()):
        names, values = entry.fields[0::2], entry.fields[1::2]
        found.append({name.decode(): as_json(value) for name, value in zip(names, values, strict=True)})
    ledger = Ledger(rig.state / "ledger.db")
    aside = [
        {"file": name, "offset": offset, "reason": reason}
        for name, offset, reason in ledger.rows("SELECT name, offset, reason FROM quarantine ORDER BY name, offset")
    ]
    ledger.close()
    return found, aside


@pytest.mark.parametrize("case", CASES, ids=lambda path: "/".join(path.parts[-2:]))
def test_case(case: Path, tmp_path: Path) -> None:
    """The files' lines become the expected entries, in order, and the expected reasons; the files stay as they were."""
    rig = Rig.shared(tmp_path, find())
    try:
        found, aside = carried(rig, case)
        assert found == [json.loads(row) for row in (case / "expected.jsonl").read_text().splitlines()]
        assert aside == json.loads((case / "verdict.json").read_text())["quarantined"]
        values = case / "values.json"
        wanted = json.loads(values.read_text()) if values.exists() else {}
        for name, facts in wanted.items():
            raw = rig.redis.call(
                "HGETALL", f"bridge:{{{load_mapping(case.parent.name, case).stream.key}}}:state:{name}"
            )
            assert {k.decode(): as_json(v) for k, v in zip(raw[0::2], raw[1::2], strict=True)} == facts
        tally = rig.parity().tally
        assert (tally.differences, tally.compared, tally.quarantined) == ([], len(found) + len(wanted), len(aside))
        for path in (case / "files").rglob("*"):
            if path.is_file():
                assert (rig.root / path.relative_to(case / "files")).read_bytes() == path.read_bytes()
    finally:
        rig.close_shared()
