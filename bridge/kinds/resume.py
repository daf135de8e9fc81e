"""Holds the places where sources resume after a connect, and the result of comparing ledger and Redis for that."""

from __future__ import annotations

from dataclasses import dataclass, field

from bridge.core.model import Checkpoint, EntryId, Position
from bridge.streams.reader import StreamInfo
from bridge.streams.stream_metadata import StreamMetadata
from bridge.streams.trim import TrimState

NewestStanding = dict[tuple[int, int], tuple[int, EntryId]]
"""(source number, generation) → highest offset whose entry stands in the stream, and that entry's ID."""


@dataclass(frozen=True, slots=True)
class Resume:
    """The place where a source resumes: at `checkpoint`, or behind the line at `behind`, or (both None) at the start.

    Up to `refill`, lines whose entry stands (`Reconciliation.offsets`) are passed over: an entry proves that its own
    line was sent, not that those before it were.
    """

    checkpoint: Checkpoint | None = None
    behind: Position | None = None
    refill: Position | None = None


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The result of comparing ledger, checkpoints and stream, which tells where sources resume.

    `lost` says in words what Redis lost; empty: nothing. `anew`: Redis lost all, and the entries in the stream were
    written since. `strangers` counts the entries whose origin is not true.
    """

    books: StreamMetadata
    info: StreamInfo
    lost: str
    anew: bool = False
    strangers: int = 0
    ahead: int = 0
    """How many entries of a stream that lost nothing name lines beyond the checkpoint: mostly others wrote these."""
    resume: dict[str, Resume] = field(default_factory=dict)
    standing: NewestStanding = field(default_factory=dict)
    offsets: dict[tuple[int, int], set[int]] = field(default_factory=dict)
    sizes: dict[tuple[int, int], dict[int, int]] = field(default_factory=dict)
    """Bytes of data of the entries in `standing` and of those beyond the checkpoint: of each generation, by offset."""
    trimmed: TrimState = field(default_factory=TrimState)
    """Which entries of the stream were trimmed on purpose; where it begins anew, those of the stream before."""
    began_behind: bool = False
    """Whether the stream begins anew, behind the entries that were trimmed of the stream before."""
    forked: bool = False
    """Whether entries that the bridge saw in the stream are not there: then an ID may stand for another entry."""
    seen: set[EntryId] = field(default_factory=set)
    """The entries that the bridge saw in the stream and that still stand."""
    parted: EntryId | None = None
    """The first entry that the bridge saw in the stream and that stands no more; None: all that were seen last stand.

    Entries behind the one before it may be of another past of the stream, in which the mirror passed over entries with
    a lower ID.
    """
