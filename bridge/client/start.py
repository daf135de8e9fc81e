"""From where a component reads that was never here: the beginning, the end, a time, an offset, or an entry."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from bridge.core.errors import ConfigError
from bridge.core.model import EntryId, before, format_id, parse_id


@dataclass(frozen=True, slots=True)
class Start:
    """From where a component first reads: the beginning, or `at_end`, a time, a byte of the file, an entry.

    `ms`: milliseconds since 1970 of the first message's time; `offset`: of the current file of a mapping with one log;
    `entry`: the ID of the first entry, for a component that reads Redis.
    """

    at_end: bool = False
    ms: int | None = None
    offset: int | None = None
    entry: EntryId | None = None

    @classmethod
    def parsed(cls, said: str | datetime | int) -> Start:
        """Parses what a program says as `start`. Raises ConfigError.

        "beginning", "end", the ID of an entry, a time with or without a zone (then UTC), or an offset in bytes.
        """
        if isinstance(said, datetime):
            moment = said if said.tzinfo else said.replace(tzinfo=UTC)
            return cls(ms=int(moment.timestamp() * 1000))
        if isinstance(said, int) and not isinstance(said, bool) and said >= 0:
            return cls(offset=said)
        if isinstance(said, str) and said in ("beginning", "end"):
            return cls(at_end=said == "end")
        if isinstance(said, str) and re.fullmatch(r"\d+-\d+", said):
            return cls(entry=parse_id(said.encode()))
        hint = "'beginning', 'end', a datetime, an offset in bytes, or the ID of an entry"
        raise ConfigError(f"a component cannot start at {said!r}", hint=hint)

    @property
    def is_place(self) -> bool:
        """Whether a component starts at a place of one stream, or of one file, and not at a time or an end."""
        return self.offset is not None or self.entry is not None

    def group_id(self) -> str:
        """Returns the ID behind which a component's consumer group begins. Raises ConfigError: it is no place there."""
        if self.offset is not None:
            said = "a component that reads Redis cannot start at an offset of a file"
            raise ConfigError(said, hint="say the entry's ID")
        if self.ms is not None:
            return format_id(before((self.ms, 0))).decode()
        if self.entry is not None:
            return format_id(before(self.entry)).decode()
        return "$" if self.at_end else "0"


BEGINNING = Start()
"""From the beginning of what there is."""
