"""Whether messages go the ways they should: each direction moves, or has nothing to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bridge.engine.lag import Lag
from bridge.engine.status import MappingStatus, Status
from bridge.kinds.direction_stats import DirectionStats, SourceRates
from bridge.ledger.heartbeat import SILENT_AFTER, Trouble

STUCK_AFTER = 10.0
"""Seconds that messages may wait while nothing moves."""

State = Literal["idle", "moving", "stuck", "off"]
Flows = Mapping[tuple[str, str], DirectionStats]
"""By mapping and direction, `forward` or `mirror`: those that are carried."""


@dataclass(frozen=True, slots=True)
class DirectionHealth:
    """One direction of a mapping. `waiting` is None where that is not known; `why` says what is stuck."""

    mapping: str
    direction: str
    state: State
    waiting: Lag | None = None
    why: str = ""


class WatchedSource(NamedTuple):
    """One source on its way, or the stream on its. `undue` of what waits is not complete yet; `place` moves with it."""

    name: str
    waiting: Lag | None
    undue: int
    place: object

    @property
    def idle(self) -> bool:
        """Whether nothing is due."""
        return self.waiting is not None and self.waiting.messages <= self.undue


class Health:
    """Keeps in mind since when each source stands while messages wait.

    `steady` is a clock in seconds that never goes back.
    """

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._seen: dict[tuple[str, str, str], tuple[object, float]] = {}

    def judge(self, status: Status, flows: Flows, silent: float) -> list[DirectionHealth]:
        """How each direction goes, as far as this look and those before it tell.

        `silent`: seconds since the last heartbeat.
        """
        hung = status.ledger_error or status.redis_error
        if silent > SILENT_AFTER:
            hung = hung or f"the last heartbeat is {silent:.0f} s old"
        found = []
        for mapping in status.mappings:
            for direction in ("forward", "mirror"):
                flow = flows.get((mapping.name, direction))
                if mapping.retired is not None or flow is None:
                    found.append(DirectionHealth(mapping.name, direction, "off"))
                    continue
                stretches = _stretches(mapping, flow)
                whys = [hung, mapping.error, *_troubles(mapping.name, flow, status.troubles)]
                whys += [source.error for source in mapping.sources if flow.parts is not None]
                whys += [self._stands(mapping.name, direction, stretch) for stretch in stretches]
                why = next(filter(None, whys), "")
                state: State = "stuck" if why else "idle" if all(each.idle for each in stretches) else "moving"
                known = [each.waiting for each in stretches if each.waiting is not None]
                waiting = sum(known, Lag()) if len(known) == len(stretches) else None
                found.append(DirectionHealth(mapping.name, direction, state, waiting, why))
        return found

    def _stands(self, mapping: str, direction: str, stretch: WatchedSource) -> str:
        name = mapping, direction, stretch.name
        if stretch.idle:
            self._seen.pop(name, None)
            return ""
        before, since = self._seen.get(name, (None, 0.0))
        if before != stretch.place:
            self._seen[name] = stretch.place, self._steady()
            return ""
        stood = self._steady() - since
        return f"{stretch.name}: messages wait, and none moved for {stood:.0f} s" if stood > STUCK_AFTER else ""


def _stretches(mapping_status: MappingStatus, flow: DirectionStats) -> list[WatchedSource]:
    if flow.parts is None:
        mirror = mapping_status.mirror
        if mirror is None:
            return []
        return [WatchedSource(mirror.target, mirror.behind, 0, (mirror.cursor, flow.messages, flow.rejects))]
    found = []
    for source in mapping_status.sources:
        part = flow.parts.get(source.name, SourceRates(0, 0))
        found.append(WatchedSource(source.name, source.behind, part.settling, (source.position, part.done)))
    return found


def _troubles(name: str, flow: DirectionStats, troubles: Mapping[str, Trouble]) -> list[str]:
    worker = f"forward {name}" if flow.parts is not None else f"mirror {name}"
    return [trouble.error for who, trouble in troubles.items() if who == worker or who.startswith(f"{worker}: ")]
