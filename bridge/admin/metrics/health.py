"""Judges the health of each direction of a mapping: idle, moving, stuck, or off, for `/healthz` and the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bridge.engine.lag import Lag
from bridge.engine.status import MappingStatus, Status
from bridge.kinds.direction_stats import DirectionStats, SourceRates
from bridge.ledger.heartbeat import SILENT_AFTER, Trouble

STUCK_AFTER = 10.0
"""Seconds after which a direction is stuck, when messages wait and none moves."""

State = Literal["idle", "moving", "stuck", "off"]
Flows = Mapping[tuple[str, str], DirectionStats]
"""The statistics of each direction that is carried, by mapping and direction (`forward` or `mirror`)."""


@dataclass(frozen=True, slots=True)
class DirectionHealth:
    """Holds the health of one direction of a mapping: its state, its lag, and why it is stuck.

    `waiting`: the lag, None where it is not known.
    """

    mapping: str
    direction: str
    state: State
    waiting: Lag | None = None
    why: str = ""


class WatchedSource(NamedTuple):
    """Holds what the health check watches of one source, or of the stream as the mirror reads it.

    `undue`: messages among the waiting ones that are not complete yet; `place`: a value that changes with progress.
    """

    name: str
    waiting: Lag | None
    undue: int
    place: object

    @property
    def idle(self) -> bool:
        """Whether the watched source has no complete message that waits."""
        return self.waiting is not None and self.waiting.messages <= self.undue


class Health:
    """Judges the health of all directions, and remembers for how long each source has not moved while messages wait.

    `steady` is a monotonic clock in seconds.
    """

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._seen: dict[tuple[str, str, str], tuple[object, float]] = {}

    def judge(self, status: Status, flows: Flows, silent: float) -> list[DirectionHealth]:
        """Judges the health of each direction of each mapping, by this status and those judged before.

        `silent`: seconds since the last heartbeat.
        """
        hung = status.ledger_error or status.redis_error
        if silent > SILENT_AFTER:
            hung = hung or f"the last heartbeat is {silent:.0f} s old"
        found = []
        for mapping in status.mappings:
            for direction in ("forward", "mirror"):
                flow = flows.get((mapping.family, direction))
                if mapping.retired is not None or flow is None:
                    found.append(DirectionHealth(mapping.name, direction, "off"))
                    continue
                stretches = _stretches(mapping, flow)
                whys = [hung, mapping.error, *_troubles(mapping.name, flow, status.troubles)]
                whys += _troubles(mapping.family, flow, status.troubles)
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
        alone = mapping_status.family == mapping_status.name
        done = (flow.messages, flow.rejects) if alone else (0, 0)  # else they are those of all streams
        return [WatchedSource(mirror.target, mirror.behind, 0, (mirror.cursor, *done))]
    found = []
    for source in mapping_status.sources:
        part = flow.parts.get(source.name, SourceRates(0, 0))
        found.append(WatchedSource(source.name, source.behind, part.settling, (source.position, part.done)))
    return found


def _troubles(name: str, flow: DirectionStats, troubles: Mapping[str, Trouble]) -> list[str]:
    worker = f"forward {name}" if flow.parts is not None else f"mirror {name}"
    return [trouble.error for who, trouble in troubles.items() if who == worker or who.startswith(f"{worker}: ")]
