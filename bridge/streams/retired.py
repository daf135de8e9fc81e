"""Reads and writes the Redis key `bridge:{S}:retired`: a stream's migration has ended, and its files are dead.

No program may fall back to the files. It is the one key of the bridge that outlives `bridge purge` (DESIGN P10, §5.3).
Whatever it holds, it says that; what it holds tells who ended it and when, and how far each file was carried, for
whoever has no ledger any more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bridge.core.model import ZERO_ID, EntryId, format_id, paired, parse_id
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.resp import pack


@dataclass(frozen=True, slots=True)
class Retirement:
    """The retirement of a stream: who retired which mapping, when (`at`, seconds since 1970), at which last entry.

    `files`: the checkpoint of each file as JSON, as `bridge:{S}:checkpoint` has it, with the source's `number`.
    `groups`: the consumer groups that the stream had, by which a component that was here is told from one that comes
    for the first time. `components`: how often each was switched, all of them to Redis, for when all begins again.
    """

    mapping: str
    who: str
    at: float
    last: EntryId = ZERO_ID
    files: Mapping[str, str] = field(default_factory=dict)
    groups: Sequence[str] = ()
    components: Mapping[str, int] = field(default_factory=dict)

    def said(self) -> str:
        """The retirement of a stream in words: who, and when (UTC)."""
        when = time.strftime(", %Y-%m-%dT%H:%M:%SZ", time.gmtime(self.at)) if self.at else ""
        return f"{self.who}{when}"

    def to_json(self) -> bytes:
        """Makes the JSON of a stream's retirement, as `bridge:{S}:retired` holds it."""
        told = {"mapping": self.mapping, "who": self.who, "at": self.at, "last": format_id(self.last).decode()}
        more = {"files": dict(self.files), "groups": list(self.groups), "components": dict(self.components)}
        return json.dumps(told | more).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Retirement:
        """Parses the retirement of a stream from `bridge:{S}:retired`.

        What somebody else wrote there says that the stream is retired as well.
        """
        try:
            said = json.loads(raw)
            files = {str(name): str(stored) for name, stored in said["files"].items()}
            return cls(
                str(said["mapping"]), str(said["who"]), float(said["at"]), parse_id(said["last"].encode()), files,
                [str(name) for name in said["groups"]],
                {str(name): int(epoch) for name, epoch in said["components"].items()},
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls("", raw[:80].decode(errors="backslashreplace"), 0.0)


def ending_of(connection: Connection, keys: Keys) -> Retirement | None:
    """Reads from Redis the retirement of a stream; None: the stream is not retired. Raises RedisLost, RedisRefused."""
    return _ending(connection.call("GET", keys.retired))


def ending_and_meta(connection: Connection, keys: Keys) -> tuple[Retirement | None, dict[bytes, bytes]]:
    """Reads from Redis, in one write, the retirement of a stream, None: it is not retired, and its hash `meta`.

    Raises RedisLost, RedisRefused.
    """
    raw, meta = connection.calls(pack("GET", keys.retired), pack("HGETALL", keys.meta))
    return _ending(raw), paired(meta)


def _ending(raw: bytes | None) -> Retirement | None:
    return None if raw is None else Retirement.from_json(bytes(raw))


def note_ending(connection: Connection, keys: Keys, ending: Retirement) -> bool:
    """Writes the retirement of a stream into Redis, unless one is there; returns whether it wrote.

    Raises RedisLost, RedisRefused.
    """
    return bool(connection.call("SET", keys.retired, ending.to_json(), "NX"))
