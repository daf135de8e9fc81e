"""The operator of cut-overs: plans the switches of a component, makes them, and finishes those a crash left."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from bridge.core.config import Settings
from bridge.core.errors import BridgeError, ConfigError, LedgerError, NotYet, RedisLost, RedisRefused, ReplicasBehind
from bridge.core.mapping import Mapping
from bridge.cutover.gate import GateBounds, SwitchStep, sides_of, steps
from bridge.cutover.gate_facts import gather_facts
from bridge.cutover.plan import SwitchPlan, SwitchReport
from bridge.cutover.switch import Switcher
from bridge.cutover.switch_waits import SwitchRefused, SwitchTakenOver
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.journal import unfinished
from bridge.ledger.retired import retired
from bridge.ledger.states import owner_of
from bridge.ledger.store import Ledger
from bridge.ledger.switch_requests import lapse
from bridge.streams.component_groups import announced_positions
from bridge.streams.components import BOTH, LEARNED, READS, REDIS, WRITES, ComponentHash, ComponentModes
from bridge.streams.connect import Connection
from bridge.streams.dial import Connections


@dataclass(frozen=True, slots=True)
class SwitchWish:
    """What an operator wants to switch: which sides of a component, `to` file or Redis, and how.

    `sides`: of `reads` and `writes`. `given`: a position said by hand. `forced`: a closed gate is passed, where its
    reasons are not firm.
    """

    component: str
    sides: tuple[str, ...] = (READS, WRITES)
    to: str = REDIS
    reason: str = ""
    given: str | None = None
    forced: bool = False
    accepts_volatile: bool = False


PASSING_ERRORS = (RedisLost, RedisRefused, ReplicasBehind, LedgerError, ConfigError, NotYet, SwitchTakenOver)
"""Errors that keep a decided switch from being made now, and do not mean that it cannot be made later."""


class Operator:
    """Plans and makes the switches of components for an operator, and finishes those that a crash left.

    `who` goes into the journal; `wait` waits so many seconds.
    """

    def __init__(
        self, settings: Settings, ledger: Ledger, servers: Connections, who: str, wait: Callable[[float], object],
        bounds: GateBounds | None = None,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._ledger = ledger
        self._servers = servers
        self._who = who
        self._wait = wait
        self._bounds = bounds or GateBounds()
        self._shared: dict[str, MappingContext] = {}

    def mappings_of(self, component: str, named: str | None) -> list[Mapping]:
        """Lists the mappings that a component uses, or the one that the operator named. Raises ConfigError."""
        known = {*self._settings.components, *(path.name for path in self._settings.home.glob("components/*"))}
        for configured in self._settings.mappings:
            shared, connection = self._of(configured.name), self._to(configured)
            known |= {name.split("/")[0] for name in announced_positions(connection, shared.keys)}
            known |= shared.components.names(connection)
        if component not in known:
            near = difflib.get_close_matches(component, known, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"declare it in bridge.toml: [components.{component}]"
            raise ConfigError(f"nobody has heard of a component '{component}'", hint=hint)
        if named is not None:
            found = self._settings.chosen([named])
            return [mapping for mapping in found if self._knows(component, mapping)] or found
        logs = [configured for configured in self._settings.mappings if configured.kind.lines]
        found = [log for log in logs if self._knows(component, log)]
        families = list(dict.fromkeys(log.family for log in logs))
        if found or len(families) == 1:
            return found or logs
        names = ", ".join(families)
        raise ConfigError(f"nothing tells which mapping {component} uses", hint=f"say it with --mapping: {names}")

    def is_used_by(self, component: str) -> bool:
        """Whether the component is known to use any mapping of these settings. Raises RedisLost, RedisRefused."""
        return any(self._knows(component, log) for log in self._settings.mappings if log.kind.lines)

    def switch_default(self, wish: SwitchWish, family: str) -> None:
        """Notes in Redis that a switch holds for streams of a mapping with many that the component has never met.

        Waits until the component's programs know. Raises RedisLost, RedisRefused; BridgeError: what Redis has is no
        component's modes.
        """
        mapping = self._settings.families[family]
        components, connection = ComponentHash.of(mapping, self._settings), self._to(mapping)
        modes = before = components.default(connection, wish.component)
        for side in wish.sides:
            modes = modes.after(side, wish.to)
        if (modes.reads, modes.writes) != (before.reads, before.writes):
            components.set_default(connection, wish.component, modes)
            self._wait(2 * LEARNED)

    def _knows(self, component: str, mapping: Mapping) -> bool:
        folder = self._settings.home / "components" / component
        shared, connection = self._of(mapping.name), self._to(mapping)
        if (folder / f"{mapping.name}.bookmark").exists() or component in shared.components.all(connection):
            return True
        return any(name.split("/")[0] == component for name in announced_positions(connection, shared.keys))

    def _to(self, mapping: Mapping) -> Connection:
        """Returns the operator's connection to the server of a mapping's stream. Raises RedisLost, RedisRefused."""
        return self._servers.to(mapping.stream.key)

    def _of(self, mapping: str) -> MappingContext:
        if mapping not in self._shared:
            self._shared[mapping] = MappingContext(self._settings.mapping(mapping), self._settings)
        return self._shared[mapping]

    def _switcher(self, mapping: str, given: str | None) -> Switcher:
        shared = self._of(mapping)
        connection = self._to(shared.mapping)
        return Switcher(shared, self._settings, self._ledger, connection, self._who, self._wait, given=given)

    def steps(self, wish: SwitchWish, mapping: str) -> tuple[list[SwitchStep], ComponentModes]:
        """Lists the switches that an operator's wish leaves to make, in the right order, and the component's modes now.

        Raises SwitchRefused, ConfigError.
        """
        if self._settings.mapping(mapping).stream.key in retired(self._ledger):
            hint = f"`bridge unretire {mapping}` begins it again"
            raise SwitchRefused("is retired: nothing is switched any more", where=mapping, hint=hint)
        configured = self._settings.mapping(mapping)
        kind = configured.source.kind
        sides = tuple(side for side in wish.sides if side in sides_of(configured.kind))
        if not sides:
            hint = "what it writes can be switched: --writes. Its program may read either side at any time"
            raise ConfigError(f"how far somebody has read files of kind '{kind}' cannot be told in Redis", hint=hint)
        if wish.to == BOTH and not configured.kind.lines:
            raise ConfigError(f"--both is for logs, and {mapping} is of kind '{kind}'", hint="leave --both out")
        modes, _ = self._of(mapping).components.read(self._to(configured), wish.component)
        if configured.kind.latest:  # a component that was never switched writes to the side that owns the values
            modes = replace(modes, writes=owner_of(self._ledger, configured.stream.key, configured.source.owner).side)
        return steps(modes, wish.component, mapping, sides, wish.to), modes

    def plan(self, wish: SwitchWish, step: SwitchStep, *, then: ComponentModes | None = None) -> SwitchPlan:
        """Plans one switch for an operator, with the gate's reasons against it now.

        `then`: the modes as they will be when it comes, for one that follows another.
        """
        mapping = self._settings.mapping(step.mapping)
        facts = gather_facts(
            self._settings, mapping, self._ledger, self._to(mapping), accepts_volatile=wish.accepts_volatile
        )
        return self._switcher(step.mapping, wish.given).plan(step, facts, self._bounds, then=then)

    def make(self, wish: SwitchWish, plan: SwitchPlan) -> SwitchReport:
        """Makes a switch that the operator planned. Raises SwitchRefused (the gate is closed), BridgeError."""
        passable = wish.forced and not any(reason.firm for reason in plan.reasons)
        if plan.reasons and not passable:
            said = "; ".join(reason.what for reason in plan.reasons)
            raise SwitchRefused(f"the gate is closed: {said}", where=str(plan.step), hint=plan.reasons[0].hint)
        facts: dict[str, Any] = {"reason": wish.reason or None}
        if plan.reasons:
            facts["forced"] = [reason.what for reason in plan.reasons]
        facts["parity"] = plan.parity
        return self._switcher(plan.step.mapping, wish.given).execute(plan.step, plan.modes.epoch, facts)

    def complete(self, before: float | None = None) -> Iterator[tuple[SwitchStep, str]]:
        """Makes or takes back the switches that operators decided and left unmade; yields each with its outcome.

        `before`: only those that are older, in seconds since 1970.
        """
        lapse(self._ledger, time.time())
        for number, _, facts in unfinished(self._ledger, before):
            step = SwitchStep(facts["component"], facts["mapping"], facts["side"], facts["to"])
            try:
                yield step, self._finished(step, number)
            except PASSING_ERRORS as error:
                yield step, f"is not made yet: {error}"

    def _finished(self, step: SwitchStep, number: int) -> str:
        switcher = self._switcher(step.mapping, None)
        try:
            return switcher.finish(step, number)
        except PASSING_ERRORS:
            raise
        except BridgeError as error:
            return switcher.take_back(step, number, error)

    def close(self) -> None:
        """Closes the mappings' files that the operator opened."""
        for shared in self._shared.values():
            shared.close()
