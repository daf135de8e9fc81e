"""The plan of a ledger's rebuild: what a repair found out, before it is written into the new ledger."""

from __future__ import annotations

from dataclasses import dataclass, field

from bridge.core.errors import BridgeError
from bridge.core.model import ZERO_ID, EntryId, format_id
from bridge.files.generation_record import GenerationRecord
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
    """The plan to rebuild a lost ledger: what a repair would write into the new one.

    `ambiguous` counts mirrored lines that an equal line could stand in for. `missing` are generations without a file,
    `strangers` sources whose file is no generation that was carried.
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
    """Lines that forward passed over because they are no messages."""
    values: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    """Name, digest and timestamp of the latest values that both sides hold."""
    edits: dict[str, dict[int, LogEditRecord]] = field(default_factory=dict)
    """The records of edited logs, by log and generation: which stretches were carried before the edit."""
    redacted: list[RedactedEntry] = field(default_factory=list)
    writes: dict[str, str] = field(default_factory=dict)
    """The side to which each component writes that was ever switched, by the component's name."""

    @property
    def unproved(self) -> list[str]:
        """Says of the plan's sources which files are not those that Redis knows; empty: the rebuild is certain."""
        carried = [f"{name} generation {known[-1].number}" for name, known in self.generations.items()
                   if known and not known[-1].closed]  # fmt: skip
        gone = [f"{generation} is not to be found" for generation in carried if generation in self.missing]
        return [*(f"{name} is no generation that was carried" for name in self.strangers), *gone]

    def component_that_owns(self, shared: MappingContext) -> str:
        """Names the component whose switch decides, in a rebuild, who owns the latest values; empty: none was switched.

        Raises BridgeError where components write to different sides: nobody can tell which side counts.
        """
        sides = set(self.writes.values()) if shared.mapping.kind.latest else set()
        if len(sides) > 1:
            said = ", ".join(f"{name} writes to {side}" for name, side in sorted(self.writes.items()))
            hint = f"only one side can own latest values: say in {shared.keys.components.decode()} which"
            raise BridgeError(f"its components do not agree: {said}", where=self.stream, hint=hint)
        return min(self.writes) if sides else ""

    def to_json(self) -> dict[str, object]:
        """Makes the JSON object of a rebuild's plan for `bridge repair --json`."""
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
