"""Declares the source of any kind, as forward carries it: a source hands out batches and learns what became of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from bridge.core.codecs import Codec
from bridge.core.errors import BridgeError, SourceError
from bridge.core.globs import is_glob
from bridge.core.mapping import Mapping
from bridge.core.model import Checkpoint, Origin, Position, Row
from bridge.files.generation_record import GenerationRecord
from bridge.files.lines import Lines
from bridge.kinds.source_counts import SourceCounts
from bridge.kinds.source_files import SourceFiles, SourceLag
from bridge.kinds.source_progress import SourceProgress
from bridge.ledger.store import Ledger
from bridge.streams.writer import Cursor

if TYPE_CHECKING:
    from bridge.kinds.artifacts.mentions import Mentions
    from bridge.kinds.resume import Reconciliation, Resume

BATCH_BYTES = 1 << 20
"""How many bytes of lines one batch holds at most."""


@dataclass(slots=True)
class SourceBatch:
    """A source batch: lines of one generation that a source hands to forward, before the lines have entry IDs.

    `times` are milliseconds since 1970 for history, else empty; `written` is when the first of the lines was whole, in
    seconds since 1970, 0: not to be counted, or unknown. `places`: which of the lines that the batch was made of became
    rows, None: all. `ended` is the generation of a late batch, as it stands behind the batch; `taken_out` are the
    offsets of lines that leave quarantine with the batch, each with its number in quarantine.
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
    out_of_quarantine: list[tuple[int, int]] = field(default_factory=list)
    among_earlier: bool = False
    """Whether the batch's lines stand in a file before lines that were sent earlier, as those of an earlier file."""

    @property
    def late(self) -> bool:
        """Whether a source batch's lines are of a generation that had ended: its own cursor moves, not the source's."""
        return self.ended is not None

    @property
    def out_of_order(self) -> tuple[bytes, ...]:
        """The source batch's origins to mark in the Redis hash `bridge:{S}:late`: entries that may follow later lines'.

        All origins of a late or refilled batch, of one among lines that were sent earlier, and of a source that comes
        late; else those of lines that leave quarantine.
        """
        refill = self.source.progress.memory.refill
        if (
            self.late
            or self.among_earlier
            or self.source.comes_late
            or (refill and self.first and self.first <= refill)
        ):
            return tuple(self.prefix + b"%d" % offset for offset in self.offsets)
        # The mark tells a retry that the lines were sent, whatever becomes of their entries.
        return tuple(self.prefix + b"%d" % offset for offset, _ in self.out_of_quarantine)


@dataclass(frozen=True, slots=True)
class HistoryHead:
    """The next lines of history that one source offers to the merge with other sources.

    `lines` from `begin` to `end` are offered; `keys` are the times to merge them by; `more`: further lines of history
    follow that are not read yet.
    """

    keys: Sequence[int]
    begin: int
    end: int
    more: bool
    lines: Lines

    def bytes(self, begin: int, end: int) -> int:
        """Counts the bytes that the lines from `begin` to `end`, offered to the merge, have in the source's file."""
        return self.lines.ends[end - 1] - self.lines.offsets[begin]


class MergedHistory(Protocol):
    """The history of one source of any kind, as the merge of several sources' history reads it by time."""

    def head(self, limit: int, ahead: int) -> HistoryHead | None:
        """Offers the source's next lines of history to the merge, `limit` or more of about `ahead`; None: no more now.

        Raises SourceError, RejectStop, LedgerError.
        """
        ...

    def take(self, count: int) -> SourceBatch | None:
        """Makes a source batch of the next `count` lines that `head` offered to the merge; None: none is a message."""
        ...

    def give_back(self, batch: SourceBatch) -> None:
        """Takes back the source batch that the merge took last and does not send: its lines are offered again."""
        ...


class Source(ABC):
    """A source of any kind, as forward carries it: hands out source batches, and moves its cursor. Not thread-safe.

    `files` are its files, and `progress` is how far it was carried.
    """

    comes_late = False
    """Whether every message of the source is marked late, as a repair brings the source's file over."""
    patience = 0.1
    """Seconds after which forward looks at the source again while the source waits for a message to be complete."""
    skipped_since: float | None = None
    """Since when a source's reader is ahead of its cursor, over bytes without entries; None: it is not ahead."""

    # Python gives an object with more than thirty attributes a table of its own, five times as large, and there may be
    # ten thousand sources: a value that is the same for nearly all of them belongs to the class.
    def __init__(
        self, mapping: Mapping, name: str, files: SourceFiles, notices: list[str], counts: SourceCounts,
        codec: Codec, ledger: Ledger,
    ) -> None:  # fmt: skip
        self.name = name
        self.files = files
        self.progress = SourceProgress(ledger, mapping.stream.key, name, counts, of_many=is_glob(mapping.source.path))
        self.codec = codec
        self.counts = counts
        self.notices = notices
        """Notices of the source for the log, until forward logs them."""
        self.trouble: BridgeError | None = None
        self.damage: dict[int, SourceError] = {}
        """The errors that the source found in its compressed files, by generation."""
        self.mentions: Mentions | None = None
        """Tells Redis about the artifacts that the source's messages mention; None where no message may mention any."""

    def lag(self) -> SourceLag:
        """Measures how much of a source's files is still to be carried."""
        return self.files.lag()

    # -- the cursor ------------------------------------------------------------------------------------------

    @abstractmethod
    def resume(self, resume: Resume, compared: Reconciliation) -> None:
        """Puts a source of any kind where the comparison of checkpoints and stream says it goes on.

        Raises LedgerError.
        """

    def go_back(self, to: Position, compared: Reconciliation) -> bytes | None:
        """Puts the reader of a source of any kind back to a line that it had passed and that is to be sent after all.

        Returns the checkpoint's value; None: the reader need not move.
        """
        return None

    def forget_lost(self, compared: Reconciliation) -> None:
        """Makes a source of any kind forget, inside a ledger transaction, the messages that Redis lost.

        Does nothing where the source's cursor tells which messages are lost.
        """
        return

    @abstractmethod
    def vouches(self, origin: Origin, fields: list[bytes]) -> bool:
        """Whether a source of any kind holds at this origin the message that an entry of these fields was made of.

        As far as that can be told.
        """

    def knows(self, checkpoint: Checkpoint, *, seen: bool) -> bool:
        """Whether a source's known past confirms its checkpoint in Redis; always true of kinds whose file tells that.

        `seen`: the ledger has this checkpoint.
        """
        return True

    @abstractmethod
    def position(self) -> tuple[Position, bytes] | None:
        """Returns where a source's reader stands, as position and as the checkpoint's value; None: it has no place."""

    def cursor_batch(self) -> SourceBatch | None:
        """Makes a source batch without entries that sets the source's cursor to its reader's place; None: no place.

        Also None where the cursor never moves without entries.
        """
        return None

    def remember(self) -> None:
        """Saves into the ledger how far a source of any kind was carried, as Redis confirmed. Raises LedgerError."""
        self.progress.save()

    # -- batches ----------------------------------------------------------------------------------------------

    def history(self) -> MergedHistory | None:
        """Returns a source's history, to be merged with other sources' by time; None: the source is sent by itself.

        None also where all has been sent that stood in the source when it was first met, or when an import began.
        """
        return None

    @abstractmethod
    def next_wake(self) -> float | None:
        """Returns after how many seconds forward looks at a source again although none of its files changed.

        None: forward need not. Else the source's next message is not complete yet, and will be in a moment.
        """

    @abstractmethod
    def next_batch(self, limit: int) -> SourceBatch | None:
        """Makes a source batch of up to `limit` entries from where the source's reader stands; None: there is none now.

        Raises RejectStop, SourceError, LedgerError.
        """

    @abstractmethod
    def committed(self, batch: SourceBatch, stored: bytes) -> None:
        """Tells a source of any kind that a batch's entries are in the stream, with `stored` as its cursor in Redis."""
