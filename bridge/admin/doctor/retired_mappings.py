"""The doctor's checks of retired mappings, whose files nobody may write to any more, and of components' outboxes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, nullcontext

from bridge.admin.doctor.finding import Finding, Judgement, worst
from bridge.core.config import Settings
from bridge.core.wording import counted
from bridge.engine.retired_files import RetiredMapping, retired_mapping
from bridge.files.outboxes import waiting_of_all
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.store import Ledger
from bridge.streams.dial import Connections


def retirements(over: Mapping[str, RetiredMapping]) -> Finding:
    """Makes the doctor's finding about retired mappings with an error, such as new writes to their files. Pure."""
    parts: list[Judgement] = []
    for name, end in sorted(over.items()):
        if end.error:
            parts.append(("bad", f"{name}: {end.error}", end.hint))
    said = f"{counted(len(over), 'mapping')}, and nobody writes to their files" if over else "no mapping is"
    return worst("retired", parts or [("good", said, "")])


def look(servers: Connections | None, settings: Settings) -> Finding:
    """Checks for the doctor every retired mapping of this bridge, by ledger, Redis and files.

    `servers`: None where Redis does not answer.
    """
    path, over = settings.state_dir / "ledger.db", dict[str, RetiredMapping]()
    with closing(Ledger(path)) if path.exists() else nullcontext() as ledger:
        for mapping in settings.mappings:
            shared = MappingContext(mapping, settings)
            try:
                connection = servers.to(shared.keys.stream) if servers is not None else None
                found = retired_mapping(shared, ledger, connection)
            finally:
                shared.close()
            if found is not None:
                over[mapping.name] = found
    return retirements(over)


def look_at_outboxes(settings: Settings) -> Finding:
    """Checks for the doctor whether messages wait in the outboxes of components, on disk, to be sent to Redis.

    Only the component itself sends the messages of its outbox: if it has ended, they wait until it is started again.
    """
    parts, boxes = list[Judgement](), waiting_of_all(settings.home)
    for mapping in settings.mappings:
        for name, count in sorted(boxes.get(mapping.name, {}).items()):
            said = f"{counted(count, 'message')} of {name} in {mapping.name} wait on disk to be sent"
            parts.append(("note", said, f"{name} sends them when Redis answers: does it run? Else start it again"))
    return worst("outboxes", parts or [("good", "no message waits on disk", "")])
