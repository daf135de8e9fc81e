"""What `bridge:{S}:retired` says: the migration of a stream has ended, and no program may fall back to its files.

It is the one key of ours that outlives `bridge purge` (DESIGN P10, §5.3). Whatever it holds, it says that; what it
holds tells who ended it and when, and how far each file was carried, for whoever has no ledger any more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bridge.core.model import ZERO_ID, EntryId, format_id, parse_id
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys


@dataclass(frozen=True, slots=True)
class Retirement:
    """The end of a stream's migration: who retired which mapping, when (`at`, seconds since 1970), at which last entry.

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
        """The end of a migration in words: who, and when (UTC)."""
        when = time.strftime(", %Y-%m-%dT%H:%M:%SZ", time.gmtime(self.at)) if self.at else ""
        return f"{self.who}{when}"

    def to_json(self) -> bytes:
        """The end of a migration as Redis keeps it."""
        told = {"mapping": self.mapping, "who": self.who, "at": self.at, "last": format_id(self.last).decode()}
        more = {"files": dict(self.files), "groups": list(self.groups), "components": dict(self.components)}
        return json.dumps(told | more).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Retirement:
        """Parses what Redis says of the end of a migration; what somebody else wrote there says that it has ended."""
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
    """Reads whether and how a stream's migration has ended; None: it has not. Raises RedisLost, RedisRefused."""
    raw = connection.call("GET", keys.retired)
    return None if raw is None else Retirement.from_json(bytes(raw))


def note_ending(connection: Connection, keys: Keys, ending: Retirement) -> bool:
    """Tells Redis that a stream's migration has ended, unless it knows; returns whether it did not.

    Raises RedisLost, RedisRefused.
    """
    return bool(connection.call("SET", keys.retired, ending.to_json(), "NX"))
