"""The doctor's look at mappings that are retired: nobody may write to their files, and nothing may wait to be sent."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, nullcontext

from bridge.carry.dead import Ended, ended
from bridge.carry.shared import Shared
from bridge.config import Settings
from bridge.doctor.finding import Finding, Part, worst
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.words import counted


def retirements(over: Mapping[str, Ended], waiting: Mapping[str, int]) -> Finding:
    """Checks what others wrote to the files of retired mappings, and what waits in outboxes. Pure.

    `waiting`: for each component in a mapping, how many of its messages wait on disk to be sent.
    """
    parts: list[Part] = []
    for name, end in sorted(over.items()):
        if end.error:
            parts.append(("bad", f"{name}: {end.error}", end.hint))
    for who, count in sorted(waiting.items()):
        hint = "they are sent when it is started again, and Redis answers"
        parts.append(("note", f"{counted(count, 'message')} of {who} wait on disk to be sent", hint))
    said = f"{counted(len(over), 'mapping')}, and nobody writes to their files" if over else "no mapping is"
    return worst("retired", parts or [("good", said, "")])


def look(connection: Connection | None, settings: Settings) -> Finding:
    """Checks the retired mappings of this bridge; `connection`: None where Redis does not answer."""
    path, over, waiting = settings.state_dir / "ledger.db", dict[str, Ended](), dict[str, int]()
    with closing(Ledger(path)) if path.exists() else nullcontext() as ledger:
        for mapping in settings.mappings:
            shared = Shared(mapping, settings)
            try:
                found = ended(shared, ledger, connection)
            finally:
                shared.close()
            if found is not None:
                over[mapping.name] = found
            for box in sorted(settings.state_dir.glob(f"components/*/{mapping.name}.*.outbox")):
                who = f"{box.parent.name} in {mapping.name}"
                waiting[who] = waiting.get(who, 0) + box.read_bytes().count(b"\n")
    return retirements(over, {who: count for who, count in waiting.items() if count})
