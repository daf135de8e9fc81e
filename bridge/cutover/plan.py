"""Values of a switch: its plan (what it would do), the pending switch (ready to be made), its report (after it)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bridge.client.bookmark import Bookmark, BookmarkState
from bridge.core.model import format_id
from bridge.cutover.gate import GateReason, SwitchStep
from bridge.cutover.position import FilePosition
from bridge.cutover.switch_request import SwitchRequest
from bridge.streams.component_groups import ComponentGroup, ComponentWorker
from bridge.streams.components import READS, ComponentModes


@dataclass(slots=True)
class SwitchPlan:
    """The plan of a switch: what it would do as of now, and the gate's reasons against it.

    `before` and `after` are the position in words.
    """

    step: SwitchStep
    modes: ComponentModes
    reasons: list[GateReason] = field(default_factory=list)
    before: str = ""
    after: str = ""
    again: int = 0
    parity: dict[str, Any] | None = None
    """The last proof: when, verdict, digest."""
    notice: str = ""
    """What else the operator is to know."""
    workers: list[ComponentWorker] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """Whether the gate is open to a planned switch: it has no reason against it."""
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """Makes the JSON of a switch's plan, for `--json`."""
        step = self.step
        return {
            "component": step.component, "mapping": step.mapping, "side": step.side, "to": step.to,
            "epoch": self.modes.epoch, "open": self.open, "before": self.before, "after": self.after,
            "again": self.again, "notice": self.notice or None, "parity": self.parity,
            "workers": [worker.where for worker in self.workers],
            "reasons": [{"what": reason.what, "hint": reason.hint, "firm": reason.firm} for reason in self.reasons],
        }  # fmt: skip


@dataclass(slots=True)
class SwitchReport:
    """The report of a switch that was made: its step, the modes after it, and the position before and after in words.

    `went_on`: whether the component was seen to go on; one that does not run was not.
    """

    step: SwitchStep
    modes: ComponentModes
    seconds: float
    before: str
    after: str
    again: int
    went_on: bool


@dataclass(slots=True)
class PendingSwitch:
    """A planned switch that is ready to be made, with the position and the group that it will write.

    `held`: the component does not read now, and its bookmark's lock is held for the switch.
    """

    alive: bool
    held: bool
    before: str = ""
    after: str = ""
    again: int = 0
    position: dict[str, Any] | None = None
    group: ComponentGroup | None = None
    asked: SwitchRequest | None = None
    files: FilePosition | None = None

    def note(self, bookmark: Bookmark, step: SwitchStep, after: ComponentModes) -> None:
        """Writes a pending switch's outcome into the bookmark of a component that does not read now.

        Such a component may start while Redis is away. One that runs writes its bookmark itself, and one that runs
        elsewhere has it there.
        """
        if not self.held:
            self._note_writes(bookmark, step, after)
            return
        was = bookmark.marks
        begun = was.begun or bool(was.places) or self.position is not None
        marks = BookmarkState(after.reads, after.writes, after.epoch, begun=begun)
        if self.files is not None:
            marks.places, marks.entry = dict(self.files.places), format_id(self.files.entry).decode()
            marks.aside = [format_id(entry_id).decode() for entry_id in sorted(self.files.aside)]
        bookmark.marks = marks
        bookmark.save()

    def _note_writes(self, bookmark: Bookmark, step: SwitchStep, after: ComponentModes) -> None:
        if step.side == READS or not bookmark.path.parent.exists() or not bookmark.lock():
            return
        marks = bookmark.load()
        if marks.epoch == after.epoch - 1:  # else the bookmark missed an earlier switch of reads
            marks.reads, marks.writes, marks.epoch = after.reads, after.writes, after.epoch
            bookmark.save()
