"""An entry that forward had sent twice, whatever place it names: parity tells, for every kind (DESIGN §6.5)."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.core.model import parse_origin
from bridge.streams.reader import entries
from tests.kinds.test_state import Values
from tests.support.inbox import document
from tests.support.rig import Rig, line, wait_until

STREAMS = {
    "hestai-message": "hestai:messages", "hestai-inbox": "hestai:inbox", "hestai-context": "hestai:context",
    "hestai-artifacts": "hestai:artifacts", "state": "hestai:state", "texts": "texts",
}  # fmt: skip
TEXTS = """name = "texts"
[source]
kind = "spool"
path = "texts/*.txt"
settle_ms = 20
[format]
codec = "document"
pattern = '(?P<role>[a-z]+)-[0-9]+[.]txt'
[message]
type = { const = "note" }
[stream]
key = "texts"
"""


def written(rig: Rig, kind: str) -> None:
    """Three messages of a kind."""
    if kind == "texts":
        (rig.path / "texts.toml").write_text(TEXTS)
    if kind == "state":
        Values(rig, history=True)
    else:
        rig.write_config(mapping="texts.toml" if kind == "texts" else kind)
    for n in range(3):
        data = b"message %d" % n
        if kind == "hestai-message":
            with rig.log.open("ab") as file:
                file.write(line(data))
            continue
        folder, name = {
            "hestai-inbox": ("inbox", f"{n}.json"), "hestai-context": ("context", "wind.ctx"),
            "hestai-artifacts": ("artifacts", f"{n}.txt"), "state": ("state", "phase.txt"), "texts": ("texts", f"wind-{n}.txt"),
        }[kind]  # fmt: skip
        path: Path = rig.root / folder / name
        path.parent.mkdir(exist_ok=True)
        hidden = path.with_name(".new")
        hidden.write_bytes(document(f"m-{n}") if kind == "hestai-inbox" else data)
        if kind == "hestai-context":
            with path.open("ab") as file:
                file.write(data)
        else:
            hidden.rename(path)
        carried(rig, kind, n + 1)


def carried(rig: Rig, kind: str, count: int) -> None:
    """Carries until the stream holds so many entries."""
    wait_until(lambda: rig.once().errors or len(list(entries(rig.redis, STREAMS[kind].encode()))) >= count, rig.said)


@pytest.mark.parametrize("origin", ["its own", "a later place", "a later generation", "an earlier one"])
@pytest.mark.parametrize("kind", STREAMS)
def test_planted(one_rig: Rig, kind: str, origin: str) -> None:
    """It is a difference; but of a file that nobody knows, which parity says it cannot compare."""
    rig, stream = one_rig, STREAMS[kind].encode()
    written(rig, kind)
    carried(rig, kind, 3)
    before = rig.parity()
    assert before.verdict == "equal", (before.tally, before.notes)
    *_, last = entries(rig.redis, stream)
    fields = [*last.fields]
    at = fields.index(b"origin") + 1
    own = parse_origin(fields[at])
    assert own is not None
    further = {"its own": (0, 0), "a later place": (0, 100), "a later generation": (1, 0), "an earlier one": (-1, 0)}
    generation, offset = further[origin]
    fields[at] = b"%d.%d:%d" % (own.source, max(own.generation + generation, 0), own.offset + offset)
    rig.redis.call("XADD", stream, "*", *fields)
    result = rig.parity()
    unknown = (kind, origin) == ("hestai-message", "a later generation")
    assert result.verdict == ("inconclusive" if unknown else "differs"), (result.tally, result.notes)
    assert result.tally.unverifiable or result.tally.differences


@pytest.mark.parametrize("kind", ["hestai-inbox", "texts"])
def test_planted_behind_a_file_that_is_gone(one_rig: Rig, kind: str) -> None:
    """Of a message whose file was taken away since, a second entry is a difference as well."""
    rig, stream = one_rig, STREAMS[kind]
    written(rig, kind)
    for path in sorted((rig.root / ("inbox" if kind == "hestai-inbox" else "texts")).iterdir())[1:]:
        path.unlink()
    before = rig.parity()
    assert (before.verdict, before.tally.taken_away) == ("equal", 2), (before.tally, before.notes)
    rig.redis.call("XADD", stream, "*", *[*entries(rig.redis, stream.encode())][-1].fields)
    result = rig.parity()
    assert [difference.kind for difference in result.tally.differences] == ["duplicate"], result.tally
