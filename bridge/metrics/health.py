"""Whether messages go the ways they should: each direction moves, or has nothing to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from bridge.carry.behind import Behind
from bridge.carry.flow import Flow
from bridge.status import MappingStatus, Status

PATIENCE = 10.0
"""Seconds that messages may wait while nothing moves."""

SILENT = 15.0
"""Seconds after which a process that gave no heartbeat hangs; it gives one every two."""

State = Literal["idle", "moving", "stuck", "off"]
Flows = Mapping[tuple[str, str], Flow]
"""By mapping and direction, `forward` or `mirror`."""


@dataclass(frozen=True, slots=True)
class Going:
    """One direction of a mapping. `waiting` is None where that is not known; `why` says what is stuck."""

    mapping: str
    direction: str
    state: State
    waiting: Behind | None = None
    why: str = ""


class Health:
    """Keeps in mind since when each direction stands while messages wait.

    `steady` is a clock in seconds that never goes back.
    """

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._seen: dict[tuple[str, str], tuple[object, float]] = {}

    def judge(self, status: Status, flows: Flows) -> list[Going]:
        """How each direction goes, as far as this look and those before it tell."""
        silent = self._silent(status)
        found = []
        for one in status.mappings:
            for direction, look in (("forward", _forward), ("mirror", _mirror)):
                if one.retired is not None or (direction == "mirror" and (one.mirror is None or not status.dual)):
                    found.append(Going(one.name, direction, "off"))
                    continue
                waiting, place, why = look(one, status)
                flow = flows.get((one.name, direction), Flow())
                progress = (place, flow.messages, flow.rejects)
                idle = waiting is not None and not waiting.messages
                why = silent or why or self._stands((one.name, direction), progress, idle=idle)
                state: State = "stuck" if why else "idle" if idle else "moving"
                found.append(Going(one.name, direction, state, waiting, why))
        return found

    def _stands(self, name: tuple[str, str], progress: object, *, idle: bool) -> str:
        if idle:
            self._seen.pop(name, None)
            return ""
        before, since = self._seen.get(name, (None, 0.0))
        if before != progress:
            self._seen[name] = progress, self._steady()
            return ""
        stood = self._steady() - since
        return f"messages wait, and none moved for {stood:.0f} s" if stood > PATIENCE else ""

    @staticmethod
    def _silent(status: Status) -> str:
        if status.ledger_error or status.redis_error:
            return status.ledger_error or status.redis_error
        beat = status.heartbeat
        if beat is None:
            return "the bridge gave no heartbeat yet"
        ago = status.at - float(beat["at"])
        return f"the last heartbeat is {ago:.0f} s old" if ago > SILENT else ""


def _forward(one: MappingStatus, status: Status) -> tuple[Behind, object, str]:
    waiting = sum((source.behind for source in one.sources), Behind())
    place = tuple((source.name, source.position) for source in one.sources)
    worker = f"forward {one.name}"
    troubles = [trouble.error for name, trouble in status.troubles.items()
                if name == worker or name.startswith(f"{worker}: ")]  # fmt: skip
    why = one.error or next(iter(troubles), "") or next((source.error for source in one.sources if source.error), "")
    return waiting, place, why


def _mirror(one: MappingStatus, status: Status) -> tuple[Behind | None, object, str]:
    if one.mirror is None:
        raise AssertionError("asked only of a mapping with a mirror")
    return one.mirror.behind, one.mirror.cursor, one.error or one.mirror.error
