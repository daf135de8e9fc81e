"""Status of each component: the sides it reads and writes, its lag, and what its next switch waits for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

from bridge.client.bookmark import Bookmark, SourcePosition
from bridge.core.config import Settings
from bridge.core.errors import BridgeError, RedisLost
from bridge.core.logger import logger
from bridge.core.model import after
from bridge.cutover.gate import GateReason, SwitchStep
from bridge.cutover.operator import Operator, SwitchWish
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.retired import retired
from bridge.ledger.store import Ledger
from bridge.streams.component_groups import ComponentWorker, announced_positions, asked_last, group_of, workers_of
from bridge.streams.components import FIRST_COMPONENTS, READS, REDIS, WRITES, ComponentHash, ComponentModes
from bridge.streams.connect import Connection
from bridge.streams.dial import Connections
from bridge.streams.foreseen_reads import foreseeing
from bridge.streams.keys import Keys
from bridge.streams.reader import groups_of
from bridge.streams.resp import pack

MOST_COUNTED = 1000
"""The most unread entries that are counted one by one, where Redis tells no lag."""


@dataclass(slots=True)
class ComponentStatus:
    """The status of one component in one mapping: its sides, position, lag, workers, and the next switch to Redis.

    `since` in seconds since 1970, None: it was never switched. `behind`: its lag, in unread messages in Redis, or
    unread bytes of the files; None: not known. `heartbeat`: seconds since the last one. `plain`: it gives none and is
    no program with our client; `asked`: seconds since it asked its group last, None: not known. `next`: the step that
    comes next, with the `reasons` why not now; None: there is none.
    """

    component: str
    mapping: str
    modes: ComponentModes
    since: float | None = None
    position: str = ""
    behind: int | None = None
    heartbeat: float | None = None
    plain: bool = False
    asked: float | None = None
    workers: list[ComponentWorker] = field(default_factory=list)
    error: str = ""
    next: SwitchStep | None = None
    reasons: list[GateReason] = field(default_factory=list)

    @property
    def unit(self) -> str:
        """The unit of a component's lag, which `behind` counts: messages in Redis, bytes in files."""
        return "message" if self.modes.reads == REDIS else "byte"

    def to_json(self) -> dict[str, Any]:
        """Makes the JSON of a component's status, for `--json`."""
        return {
            "component": self.component, "mapping": self.mapping, "reads": self.modes.reads,
            "writes": self.modes.writes, "epoch": self.modes.epoch, "since": self.since, "position": self.position,
            "behind": self.behind, "unit": self.unit, "heartbeat_age": self.heartbeat,
            "plain": self.plain, "asked_age": self.asked,
            "workers": [worker.where for worker in self.workers],
            "error": self.error or None,
            "switching": None if self.modes.switch is None else self.modes.switch.who,
            "next": None if self.next is None else {"side": self.next.side, "to": self.next.to},
            "blocked_by": [reason.what for reason in self.reasons],
        }  # fmt: skip


def sample_component(settings: Settings) -> list[ComponentStatus]:
    """Takes one sample of every component's status; returns none where the ledger or Redis is not there."""
    path = settings.state_dir / "ledger.db"
    if not path.exists():
        return []
    with ExitStack() as stack:
        try:
            ledger = Ledger(path)
            stack.callback(ledger.close)
            servers = stack.enter_context(closing(Connections(settings, may_start=False)))
            operator = Operator(settings, ledger, servers, "", lambda seconds: None)
            stack.callback(operator.close)
            return component_statuses(settings, ledger, servers, operator)
        except BridgeError as error:
            logger.debug("the components are not told: %s", error)
            return []


def component_statuses(
    settings: Settings, ledger: Ledger, servers: Connections, operator: Operator
) -> list[ComponentStatus]:
    """Determines the status of every component that Redis names, or that is declared and has a bookmark here.

    Retired mappings are left out. Raises RedisLost, RedisRefused.
    """
    found, over, since = [], retired(ledger), _since(ledger)
    mappings = [mapping for mapping in settings.mappings if mapping.stream.key not in over]
    streams = [mapping.stream.key for mapping in mappings]
    for mapping, _ in zip(mappings, foreseeing(streams, servers.to, _reads), strict=True):
        keys = Keys.of(mapping.stream.key)
        connection = servers.to(keys.stream)
        announced = announced_positions(connection, keys)
        names = {name.split("/")[0] for name in announced if "/" in name}
        names |= ComponentHash(keys, mapping.name, settings.instance).names(connection)
        if mapping.kind.lines:
            names |= {name for name in settings.components if _has_bookmark(settings, name, mapping.name)}
        if not names:
            continue
        with closing(MappingContext(mapping, settings)) as shared:
            for name in sorted(names):
                try:
                    standing = _standing(name, shared, settings, connection, announced)
                    standing.since = since.get((name, mapping.name))
                    _next(standing, operator)
                except RedisLost:
                    raise
                except BridgeError as error:
                    standing = ComponentStatus(name, mapping.name, ComponentModes(), error=str(error))
                found.append(standing)
    return found


def _reads(keys: Keys) -> list[Sequence[bytes]]:
    """Makes the writes by which the components of one stream are looked for, for `foreseeing`."""
    return [[pack("HGETALL", key)] for key in (keys.positions, keys.components, FIRST_COMPONENTS)]


def _has_bookmark(settings: Settings, component: str, mapping: str) -> bool:
    return Bookmark(settings.home, component, mapping).path.exists()


def _standing(
    name: str, shared: MappingContext, settings: Settings, connection: Connection,
    announced: dict[str, dict[str, Any]],
) -> ComponentStatus:  # fmt: skip
    mapping = shared.mapping
    modes, now = shared.components.read(connection, name)
    standing = ComponentStatus(name, mapping.name, modes)
    standing.workers = workers_of(announced, name, now)
    beats = [
        said["at"] for who, said in announced.items() if who.startswith(f"{name}/") and isinstance(said.get("at"), int)
    ]
    standing.heartbeat = max(0.0, (now - max(beats)) / 1000) if beats else None
    if not mapping.kind.lines:
        return standing
    ours = any((settings.home / "components" / name).glob("worker-*.lock"))  # this machine has run open_log for it
    if modes.reads == REDIS:
        group = group_of(connection, shared.keys.stream, name)
        if group is not None:
            standing.position = f"entry {group.last[0]}-{group.last[1]}"
            rows = groups_of(connection, shared.keys.stream)
            lag = next(row.lag for row in rows if row.name == name.encode())
            if lag is None:  # a group made in the middle of the stream has no lag until it has met the end
                lag = len(connection.call("XRANGE", shared.keys.stream, after(group.last), "+", "COUNT", MOST_COUNTED))
            standing.behind = lag + len(group.pending)
            standing.asked = asked_last(connection, shared.keys.stream, name)
            standing.plain = not ours and standing.heartbeat is None and standing.asked is not None
        return standing
    said = announced.get(name, {}).get("files")
    places: dict[str, SourcePosition] = {}
    plain = {file: at for file, at in said.items() if isinstance(at, int)} if isinstance(said, dict) else {}
    if plain:  # a program without our client tells how many bytes it has read
        standing.plain = not ours and standing.heartbeat is None
        standing.position = ", ".join(f"{file} byte {at}" for file, at in sorted(plain.items()))
        standing.behind = sum(_beyond(shared, file, at) for file, at in plain.items())
        return standing
    try:
        if isinstance(said, dict):
            places = {file: SourcePosition.from_json(place) for file, place in said.items() if isinstance(place, dict)}
        places = places or Bookmark(settings.home, name, mapping.name).load().places
    except (ValueError, BridgeError) as error:
        standing.position = str(error)
        return standing
    if places:
        standing.position = ", ".join(
            f"{file} byte {p.position.offset if p.position else 0}" for file, p in sorted(places.items())
        )
        standing.behind = sum(_unread(shared, file, place) for file, place in places.items())
    return standing


def _beyond(shared: MappingContext, name: str, offset: int) -> int:
    """Counts a file's bytes behind the offset that a component without our client tells, as its lag; 0: no file."""
    try:
        return max(0, (shared.settings.root / name).stat().st_size - offset)
    except OSError:
        return 0


def _unread(shared: MappingContext, name: str, place: SourcePosition) -> int:
    """Counts the bytes of a file and of its later generations that a component has not read, as its lag."""
    tail = shared.new_tail(name, list(place.generations))
    try:
        tail.look()
        return sum(generation.left() for generation in tail.pending())
    except BridgeError:
        return 0
    finally:
        tail.close()


def _since(ledger: Ledger) -> dict[tuple[str, str], float]:
    """Reads from the journal when each component was switched last, in seconds since 1970, by component and mapping."""
    rows = ledger.rows("SELECT at, facts FROM journal WHERE what IN ('cutover', 'rollback') ORDER BY id")
    told = [(at, json.loads(raw)) for at, raw in rows]
    return {
        (facts.get("component"), facts.get("mapping")): float(at) for at, facts in told if facts.get("state") == "done"
    }


def _next(component: ComponentStatus, operator: Operator) -> None:
    """Sets in a component's status the next switch that leads to Redis, and the gate's reasons against it now."""
    wish = SwitchWish(component.component, (READS, WRITES), REDIS)
    steps, _ = operator.steps(wish, component.mapping)
    if not steps or component.modes.switch is not None:
        return
    component.next = steps[0]
    component.reasons = operator.plan(wish, steps[0]).reasons
