"""Where each source goes on after a connect, and what the comparison of ledger and Redis found for that."""

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
    """Where a source goes on: at `checkpoint`, or behind the line at `behind`, or (both None) at the beginning.

    Up to `refill`, lines whose entry stands (`offsets`) are passed over: an entry vouches for its own line
    only, not for those before it.
    """

    checkpoint: Checkpoint | None = None
    behind: Position | None = None
    refill: Position | None = None


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What a comparison of ledger, checkpoints and stream found. `lost` says what Redis lost, in words; empty: nothing.

    `anew`: Redis lost all, and what stands in the stream was written since. `strangers` counts entries whose origin is
    not true.
    """

    books: StreamMetadata
    info: StreamInfo
    lost: str
    anew: bool = False
    strangers: int = 0
    ahead: int = 0
    """How many entries of a stream that lost nothing name lines beyond the checkpoint: mostly others wrote them."""
    resume: dict[str, Resume] = field(default_factory=dict)
    standing: NewestStanding = field(default_factory=dict)
    offsets: dict[tuple[int, int], set[int]] = field(default_factory=dict)
    sizes: dict[tuple[int, int], dict[int, int]] = field(default_factory=dict)
    """Bytes of data that the entries of `standing` and those beyond the checkpoint have, by generation and offset."""
    trimmed: TrimState = field(default_factory=TrimState)
    """What was trimmed on purpose of this stream; or of the stream before, where this one begins anew behind that."""
    began_behind: bool = False
    """Whether this stream begins anew behind what was trimmed of the stream before."""
    forked: bool = False
    """Whether entries that the bridge saw in the stream are not there: then an ID may stand for another entry."""
    seen: set[EntryId] = field(default_factory=set)
    """The entries that the bridge saw in the stream and that still stand."""
    parted: EntryId | None = None
    """The first entry that the bridge saw in the stream and that stands no more; None: none of the last ones is gone.

    What stands behind the one before it may be of another past, of which the mirror passed over what has a lower ID.
    """
