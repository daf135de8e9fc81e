"""What forward carries: a source of any kind hands out batches, and is told what became of them."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from bridge.core.codecs import Codec
from bridge.core.errors import BridgeError, SourceError
from bridge.core.globs import is_glob
from bridge.core.logger import logger
from bridge.core.mapping import Mapping
from bridge.core.model import Checkpoint, Origin, Position, Row
from bridge.files.generation import GenerationRecord
from bridge.files.lines import Lines
from bridge.kinds.source_counts import SourceCounts
from bridge.ledger.ranges import Range
from bridge.ledger.sources import SourceMemory, save_source
from bridge.ledger.store import Ledger
from bridge.streams.writer import Cursor

if TYPE_CHECKING:
    from bridge.kinds.artifacts.mentions import Mentions
    from bridge.kinds.resume import Reconciliation, Resume
    from bridge.streams.connect import Connection

BATCH_BYTES = 1 << 20
"""Bytes of lines that one batch holds at most."""


@dataclass(slots=True)
class SourceBatch:
    """Lines of one generation that a source hands to forward for a batch, before their entry IDs are known.

    `times` are milliseconds since 1970 for history, else empty; `written` is when the first of the lines was whole, in
    seconds since 1970, 0: it does not count, or nobody can tell. `places`: which of the lines the batch was made of
    became rows, None: all. `ended` is the generation of a late batch, as it stands behind the batch; `taken_out` are
    the offsets and numbers of lines that leave quarantine with the batch.
    """

    source: Source
    cursor: Cursor
    position: Position
    first: Position | None = None
    rows: list[Row] = field(default_factory=list)
    prefix: bytes = b""
    offsets: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    written: float = 0.0
    places: list[int] | None = None
    closing: tuple[GenerationRecord, ...] = ()
    ended: GenerationRecord | None = None
    taken_out: list[tuple[int, int]] = field(default_factory=list)
    among_earlier: bool = False
    """Whether the batch's lines stand in a file before others that were sent earlier, as those of an earlier file."""

    @property
    def late(self) -> bool:
        """Whether the batch's lines stand in a generation that had ended: they move its cursor, not the source's."""
        return self.ended is not None

    @property
    def out_of_order(self) -> tuple[bytes, ...]:
        """The batch's origins that go into `bridge:{S}:late`, as their entries may stand behind those of later lines.

        All of a late or refilled batch, or of one among lines that were sent earlier; else those of lines that leave
        quarantine.
        """
        refill = self.source.memory.refill
        if (
            self.late
            or self.among_earlier
            or self.source.comes_late
            or (refill and self.first and self.first <= refill)
        ):
            return tuple(self.prefix + b"%d" % offset for offset in self.offsets)
        # The mark tells a retry that they were sent, whatever becomes of them.
        return tuple(self.prefix + b"%d" % offset for offset, _ in self.taken_out)


@dataclass(frozen=True, slots=True)
class HistoryHead:
    """The next lines of history that one source offers to the merge with other sources.

    Offered are `keys`, the times to merge by, and `lines`, from `begin` to `end`; `more`: others follow that are not
    read yet.
    """

    keys: Sequence[int]
    begin: int
    end: int
    more: bool
    lines: Lines

    def bytes(self, begin: int, end: int) -> int:
        """How many bytes of the source's file the offered lines from `begin` to `end` take."""
        return self.lines.ends[end - 1] - self.lines.offsets[begin]


class MergedHistory(Protocol):
    """The history of one source, as the merge of several sources' history reads it by time."""

    def head(self, limit: int, ahead: int) -> HistoryHead | None:
        """Offers the source's next lines of history to the merge, `limit` or more of about `ahead`; None: no more now.

        Raises SourceError, RejectStop, LedgerError.
        """
        ...

    def take(self, count: int) -> SourceBatch | None:
        """Makes a batch of the next `count` lines that `head` offered to the merge; None: none of them is a message."""
        ...

    def give_back(self, batch: SourceBatch) -> None:
        """Takes back the batch that the merge took last and does not send: its lines come again."""
        ...


class Source(ABC):
    """A source of any kind, as forward carries it: hands out batches, and moves its cursor. Not thread-safe."""

    comes_late = False
    """Whether every message of the source is marked late: a repair brings its file over."""
    patience = 0.1
    """Seconds after which forward looks at the source again while that waits."""
    unreadable: SourceError | None = None
    """Why a file of the source could not be read at the last look, while its other files go on; None: all could."""

    # Of an object with more than thirty attributes Python keeps a table of its own, five times as large, and there may
    # be ten thousand: what hardly any source differs in belongs to the class.
    def __init__(
        self, mapping: Mapping, name: str, notices: list[str], ledger: Ledger, clock: Callable[[], float]
    ) -> None:
        self.name = name
        self.memory = SourceMemory(0)
        self.stored: bytes | None = None
        self.late_stored: dict[int, bytes | None] = {}
        self.trouble: BridgeError | None = None
        self.damage: dict[int, SourceError] = {}
        """What the source found wrong with its compressed files, by generation."""
        self.standing: dict[tuple[int, int], set[int]] = {}
        """While a stream that began anew is filled again: the offsets whose entries stand, by source and generation."""
        self.counts = SourceCounts()
        self.codec: Codec = mapping.codec(name)
        self.mentions: Mentions | None = None
        """What tells Redis of artifacts that the source's messages name; None where they may name none."""
        self.notices = notices
        """What the source has to say in the log, until forward says it."""
        self._ledger = ledger
        self._clock = clock
        self._stream = mapping.stream.key
        self._of_many = is_glob(mapping.source.path)

    def go_live(self, why: str) -> None:
        """The source's lines get the time of sending as entry ID from here on; the log says `why`."""
        self.memory = replace(self.memory, live=True)
        clamped = self.counts.clamped
        later = f"; {clamped} lines have another time as entry ID than their own" if clamped else ""
        level = logging.DEBUG if self._of_many else logging.INFO  # thousands would say the same
        logger.log(level, "%s: %s%s", self.name, why, later, extra={"facts": {"source": self.name, "clamped": clamped}})

    def take_as_history(self) -> None:
        """The source takes what stands in it now as history, as if it was met for the first time."""
        history = self.end()
        if history is not None and (self.memory.history is None or self.memory.history < history):
            self.memory = replace(self.memory, live=False, history=history)

    @property
    def is_new(self) -> bool:
        """Whether no generation of the source is known, as nobody has looked at its file yet."""
        return False

    def begin(self, number: int) -> SourceMemory:
        """Makes the memory of a source that was never carried: all that stands in it now is its history."""
        history = self.end()
        return SourceMemory(number, None, history is None, history)

    def remember(self) -> None:
        """The source saves into the ledger how far it was carried, as Redis confirmed it."""
        save_source(self._ledger, self._stream, self.name, replace(self.memory, stored=self.stored))

    def remembered(self) -> None:  # noqa: B027 - most keep nothing
        """The source may let go in memory of what `remember` wrote, as the ledger has committed it."""

    def history(self) -> MergedHistory | None:
        """Returns the source's history, to be merged with other sources' by time; None: the source is sent by itself.

        None also where all that stood in the source when it was first met, or an import began, has been sent.
        """
        return None

    def skipped(self) -> list[tuple[str, int, int]]:
        """Takes the stretches of files that the source's cursor went over unread: path, and from where to where."""
        return []

    def flush(self) -> SourceBatch | None:
        """Makes the batch, without entries, by which forward passes over what the source skipped; None: nothing was."""
        return self.cursor_batch() if self.skipped_since is not None else None

    # -- the files -------------------------------------------------------------------------------------------

    @property
    def restless(self) -> bool:
        """Whether the source must be looked at in each sweep, whatever became of its files."""
        return True

    @abstractmethod
    def look(self, paths: set[str] | None) -> bool:
        """The source looks at its files; where `paths` are given, only if one of these is its own. False: it did not.

        Raises SourceError, LedgerError.
        """

    @abstractmethod
    def take_news(self) -> list[str]:
        """The source writes what it found in its files into the ledger; returns notices for the bridge's log, once."""

    @property
    @abstractmethod
    def present(self) -> bool:
        """Whether the source has anything that could be carried."""

    @abstractmethod
    def end(self) -> Position | None:
        """The position at which what is in the source now ends; None when there is nothing."""

    def forget_lost(self, compared: Reconciliation) -> None:
        """Forgets, inside a ledger transaction, what of this source Redis lost; nothing where its cursor tells that."""
        return

    def go_back(self, to: Position, compared: Reconciliation) -> bytes | None:
        """Puts the source's reader back to a line that it had passed and that is to be sent; None: it need not."""
        return None

    def knows(self, checkpoint: Checkpoint, *, seen: bool) -> bool:
        """Whether what is known of a source's past bears out its checkpoint in Redis; a file tells by itself: yes."""
        return True

    @abstractmethod
    def content_of(self, span: Range) -> bytes:
        """Reads the bytes of a range that the mirror wrote to the source; empty when they are gone."""

    @property
    @abstractmethod
    def rejected(self) -> int:
        """How many messages of the source were set aside in quarantine."""

    @property
    @abstractmethod
    def settling(self) -> int:
        """How many messages of the source are not due yet, as they are not complete; rather too many."""

    @abstractmethod
    def left(self) -> int:
        """How many bytes of the source on disk are still to be read."""

    @abstractmethod
    def on_disk(self) -> int:
        """How many bytes all that is known of the source has on disk, as far as that is known."""

    @abstractmethod
    def unfinished(self) -> int:
        """Counts the bytes at the end of a log's source that are no whole message yet."""

    def tell(self, connection: Connection) -> None:
        """Tells Redis what was found out of artifacts that the source's messages in the stream name.

        Raises RedisLost, RedisRefused.
        """
        if self.mentions is not None and self.stored:
            self.mentions.tell(connection, self.memory.number, Checkpoint.from_json(self.stored).position)

    # -- the cursor ------------------------------------------------------------------------------------------

    @abstractmethod
    def resume(self, resume: Resume, compared: Reconciliation) -> None:
        """The source goes on where the comparison of checkpoints and stream says. Raises LedgerError."""

    @abstractmethod
    def vouches(self, origin: Origin, fields: list[bytes]) -> bool:
        """Whether the source holds at this origin what an entry of these fields was made of, as far as can be told."""

    @abstractmethod
    def position(self) -> tuple[Position, bytes] | None:
        """Where the source's reader stands, as a position and as the checkpoint's value; None: it stands nowhere."""

    # -- batches ----------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def skipped_since(self) -> float | None:
        """Since when the source's reader is ahead of its cursor, over what makes no entries; None when it is not."""

    @abstractmethod
    def next_wake(self) -> float | None:
        """Returns the seconds after which forward looks at the source again, though nothing happened to its files.

        None: it need not. Else the source's next message is not ended yet, and will be in a moment.
        """

    @abstractmethod
    def next_batch(self, limit: int) -> SourceBatch | None:
        """Makes a batch of up to `limit` entries from where the source's reader stands; None when there are none now.

        Raises RejectStop, SourceError, LedgerError.
        """

    @abstractmethod
    def cursor_batch(self) -> SourceBatch | None:
        """Makes a batch without entries that sets the source's cursor to its reader's place; None: there is nothing."""

    @abstractmethod
    def committed(self, batch: SourceBatch, stored: bytes) -> None:
        """The source learns that a batch's entries are in the stream, and that Redis holds `stored` as its cursor."""
