"""What a repair found out for a ledger that was lost, before it is written into a new one."""

from __future__ import annotations

from dataclasses import dataclass, field

from bridge.core.errors import BridgeError
from bridge.core.model import ZERO_ID, EntryId, format_id
from bridge.files.generation import GenerationRecord
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.spool import folder_recovery
from bridge.ledger.quarantine import QuarantinedMessage
from bridge.ledger.ranges import Range
from bridge.ledger.sources import SourceMemory
from bridge.streams.edits import LogEditRecord
from bridge.streams.reader import StreamInfo
from bridge.streams.redacted import RedactedEntry


@dataclass(slots=True)
class RebuildPlan:
    """What a repair would write into a ledger. `ambiguous` counts mirrored lines that an equal line could stand in for.

    `missing` are generations without a file, `strangers` sources whose file is no generation that was carried.
    """

    stream: str
    owner: str
    instance: str
    info: StreamInfo
    sources: dict[str, SourceMemory] = field(default_factory=dict)
    generations: dict[str, list[GenerationRecord]] = field(default_factory=dict)
    ranges: list[Range] = field(default_factory=list)
    cursor: EntryId = ZERO_ID
    missing: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    ambiguous: int = 0
    unmatched: int = 0
    folder: folder_recovery.FolderRecovery | None = None
    aside: list[QuarantinedMessage] = field(default_factory=list)
    """Lines that were carried past and are no messages."""
    values: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    """Name, digest and timestamp of the latest values that both sides hold."""
    edits: dict[str, dict[int, LogEditRecord]] = field(default_factory=dict)
    """Of each log that was edited which stretches of which generations were carried before."""
    redacted: list[RedactedEntry] = field(default_factory=list)
    writes: dict[str, str] = field(default_factory=dict)
    """The side to which each component writes that was ever switched, by the component's name."""

    @property
    def unproved(self) -> list[str]:
        """Says which sources' files are not those that Redis knows; empty: what is in both was carried."""
        carried = [f"{name} generation {known[-1].number}" for name, known in self.generations.items()
                   if known and not known[-1].closed]  # fmt: skip
        gone = [f"{generation} is not to be found" for generation in carried if generation in self.missing]
        return [*(f"{name} is no generation that was carried" for name in self.strangers), *gone]

    def component_that_owns(self, shared: MappingContext) -> str:
        """The switched component that decides which side owns the mapping's latest values; empty: nobody was switched.

        Raises BridgeError where components write to different sides: nobody can tell which side counts.
        """
        sides = set(self.writes.values()) if shared.mapping.kind.latest else set()
        if len(sides) > 1:
            said = ", ".join(f"{name} writes to {side}" for name, side in sorted(self.writes.items()))
            hint = "only one side can own latest values: say in bridge:components which"
            raise BridgeError(f"its components do not agree: {said}", where=self.stream, hint=hint)
        return min(self.writes) if sides else ""

    def to_json(self) -> dict[str, object]:
        """The plan of a repair as facts for `bridge repair --json`."""
        return {
            "stream": self.stream,
            "owner": self.owner,
            "sources": {name: source.number for name, source in self.sources.items()},
            "generations": sum(map(len, self.generations.values())),
            "missing_generations": self.missing,
            "new_files": self.strangers,
            "mirrored_lines": len(self.ranges),
            "ambiguous": self.ambiguous,
            "to_be_mirrored": self.unmatched,
            "mirror_cursor": format_id(self.cursor).decode(),
        }
