"""What forward carries: a source of any kind hands out drafts, and is told what became of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from bridge.carry.tally import Tally
from bridge.codecs import Codec
from bridge.errors import BridgeError, SourceError
from bridge.ledger.mirrored import Range
from bridge.ledger.sources import SourceMemory, save_source
from bridge.ledger.store import Ledger
from bridge.log import log
from bridge.mapping import Mapping
from bridge.model import Checkpoint, Origin, Position

if TYPE_CHECKING:
    from bridge.carry.draft import Draft
    from bridge.carry.mentions import Mentions
    from bridge.carry.merge import Head
    from bridge.carry.refill import Compared, Resume
    from bridge.streams.connect import Connection


class Source(ABC):
    """Forward's half of a source. Not thread-safe."""

    def __init__(
        self, mapping: Mapping, name: str, notices: deque[str], ledger: Ledger, clock: Callable[[], float]
    ) -> None:
        self.name = name
        self.memory = SourceMemory(0)
        self.stored: bytes | None = None
        self.late_stored: dict[int, bytes | None] = {}
        self.trouble: BridgeError | None = None
        self.unreadable: SourceError | None = None
        """What could not be read by the last look, of a source whose other files go on."""
        self.damage: dict[int, SourceError] = {}
        """What was found wrong with compressed files, by generation."""
        self.standing: dict[tuple[int, int], set[int]] = {}
        """While a stream that began anew is filled again: the offsets whose entries stand, by source and generation."""
        self.tally = Tally()
        self.patience = 0.1
        """Seconds after which to look again while it waits."""
        self.codec: Codec = mapping.codec(name)
        self.mentions: Mentions | None = None
        """What is said of artifacts that its messages name, where they may."""
        self.notices = notices
        """What is to be said in the log."""
        self._ledger = ledger
        self._clock = clock
        self._stream = mapping.stream.key

    def go_live(self, why: str) -> None:
        """From here on lines get the time of sending as entry ID."""
        self.memory = replace(self.memory, live=True)
        clamped = self.tally.clamped
        later = f"; {clamped} lines have another time as entry ID than their own" if clamped else ""
        log.info("%s: %s%s", self.name, why, later, extra={"facts": {"source": self.name, "clamped": clamped}})

    def take_as_history(self) -> None:
        """What stands there now is history, as if the source was met for the first time."""
        history = self.end()
        if history is not None and (self.memory.history is None or self.memory.history < history):
            self.memory = replace(self.memory, live=False, history=history)

    def begin(self, number: int) -> SourceMemory:
        """What is remembered of a source that was never carried: all that stands in it now is its history."""
        history = self.end()
        return SourceMemory(number, None, history is None, history)

    def remember(self) -> None:
        """Into the ledger: how far it was carried, as Redis confirmed it."""
        save_source(self._ledger, self._stream, self.name, replace(self.memory, stored=self.stored))

    def remembered(self) -> None:  # noqa: B027 - most keep nothing
        """What `remember` wrote is committed: memory may let go of it."""

    def head(self, limit: int, ahead: int) -> Head | None:
        """The next lines of history, for the merge with other sources; None: it is carried by itself."""
        return None

    def take(self, count: int) -> Draft | None:
        """A draft of the next `count` lines of `head`; None when none of them becomes an entry."""
        raise AssertionError("this source is not merged with others")

    def give_back(self, draft: Draft) -> None:
        """The draft that was taken last is not sent: its lines come again."""
        raise AssertionError("this source is not merged with others")

    def flush(self) -> Draft | None:
        """A draft without entries that moves the cursor over what was skipped; None when nothing was."""
        return self.here() if self.skipped_since is not None else None

    # -- the files -------------------------------------------------------------------------------------------

    @abstractmethod
    def look(self, paths: set[str] | None) -> bool:
        """Looks at its files; where `paths` are given, only if one of these is its own. False when it did not.

        Raises SourceError, LedgerError.
        """

    @abstractmethod
    def keep_news(self) -> list[str]:
        """Writes what was found into the ledger; returns what is to be said in the log, once."""

    @property
    @abstractmethod
    def present(self) -> bool:
        """Whether there is anything that could be carried."""

    @abstractmethod
    def end(self) -> Position | None:
        """Where what is there now ends; None when there is nothing."""

    @abstractmethod
    def content_of(self, one: Range) -> bytes:
        """The bytes of a range that the mirror wrote; empty when they are gone."""

    @property
    @abstractmethod
    def rejected(self) -> int:
        """Messages that were set aside."""

    @property
    @abstractmethod
    def settling(self) -> int:
        """Of the messages that are there, how many are not due, as they are not complete; rather too many."""

    @abstractmethod
    def left(self) -> int:
        """Bytes on disk that are to be read."""

    @abstractmethod
    def on_disk(self) -> int:
        """Bytes on disk of all of it that is known, as far as that is known."""

    @abstractmethod
    def unfinished(self) -> int:
        """Bytes that are no whole message yet."""

    def tell(self, connection: Connection) -> None:
        """Lets Redis know what was found out aside, of what is in the stream. Raises RedisLost, RedisRefused."""
        if self.mentions is not None and self.stored:
            self.mentions.tell(connection, self.memory.number, Checkpoint.from_json(self.stored).position)

    # -- the cursor ------------------------------------------------------------------------------------------

    @abstractmethod
    def place(self, resume: Resume, compared: Compared) -> None:
        """Goes on where the comparison says. Raises LedgerError."""

    @abstractmethod
    def vouches(self, origin: Origin, fields: list[bytes]) -> bool:
        """Whether an entry of these fields was made of what stands at this origin, as far as can be told."""

    @abstractmethod
    def checkpoint(self) -> tuple[Position, bytes] | None:
        """Where the reader stands, as a position and as the checkpoint's value."""

    # -- drafts ----------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def skipped_since(self) -> float | None:
        """Since when the reader is ahead over what makes no entries; None when it is not."""

    @property
    @abstractmethod
    def waits(self) -> bool:
        """Whether what comes next is not ended yet, and will be in a moment."""

    @property
    @abstractmethod
    def in_history(self) -> bool:
        """Whether what comes next stood there when the source was first met, or an import began."""

    @abstractmethod
    def next_draft(self, limit: int) -> Draft | None:
        """Up to `limit` entries from where the reader stands; None when there are none now.

        Raises RejectStop, SourceError, LedgerError.
        """

    @abstractmethod
    def here(self) -> Draft | None:
        """A draft without entries that sets the cursor to where the reader stands; None when there is nothing."""

    @abstractmethod
    def landed(self, draft: Draft, stored: bytes) -> None:
        """Its entries are in, and Redis holds `stored` as its cursor."""
