"""The doctor's check for streams that have such a name as those of a mapping with many, and that nobody carries."""

from __future__ import annotations

from contextlib import closing, nullcontext

from bridge.admin.doctor.finding import Finding, Judgement, worst
from bridge.core.config import Settings
from bridge.core.wording import counted
from bridge.kinds.stream_family import StreamFamily, StreamsInRedis
from bridge.ledger.store import Ledger
from bridge.streams.dial import Connections

SHOWN = 5
"""Most of these streams that the doctor names."""


def look_at_strange_streams(servers: Connections, settings: Settings) -> Finding:
    """Checks for the doctor whether Redis has streams of such a name that are of no log, or wait to be taken up.

    What is added to them is mirrored nowhere. Raises RedisLost, RedisRefused, LedgerError, SourceError.
    """
    parts: list[Judgement] = []
    path = settings.state_dir / "ledger.db"
    with closing(Ledger(path)) if path.exists() else nullcontext() as ledger:
        for mapping in settings.families.values():
            family = StreamFamily(mapping, settings, ledger)
            family.find()
            redis = StreamsInRedis(family, ledger.uuid if ledger is not None else b"")
            waiting = [family.of(log).stream.key for log in redis.whole(servers)]
            if redis.strange:
                said = f"{counted(len(redis.strange), 'stream')} named as those of {mapping.name}, and of no log"
                said = f"{said}: {', '.join(sorted(redis.strange)[:SHOWN])}"
                hint = "no file could have such a name, or it has lines of several logs: nothing of it is mirrored"
                parts.append(("note", said, hint))
            if waiting and mapping.mirror is not None:
                said = f"{counted(len(waiting), 'stream')} of {mapping.name} wait to be taken up: "
                parts.append(("note", said + ", ".join(sorted(waiting)[:SHOWN]), "`bridge run --dual` mirrors them"))
    return worst("streams", parts or [("good", "each that has such a name is of a log", "")])
