"""The gate of a switch: which switches are allowed, and what must hold before one. Pure: facts in, reasons out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bridge.core.kind_traits import KindTraits
from bridge.streams.components import BOTH, FILE, READS, REDIS, WRITES, ComponentModes


@dataclass(frozen=True, slots=True)
class SwitchStep:
    """One switch that the gate judges: a component's `side` in a mapping, `reads` or `writes`, goes `to` another place.

    That is `file`, `redis`, or, for writes, `both`.
    """

    component: str
    mapping: str
    side: str
    to: str

    @property
    def forth(self) -> bool:
        """Whether the switch leads away from the files, and is no roll-back."""
        return self.to != FILE

    def __str__(self) -> str:
        where = {FILE: "the files", REDIS: "Redis", BOTH: "both sides itself"}[self.to]
        return f"{self.component} {self.side} {self.mapping} {'from' if self.side == READS else 'to'} {where}"


@dataclass(frozen=True, slots=True)
class GateReason:
    """A reason why the gate is closed to a switch: what is the matter, and what to do about it.

    A reason that is `firm` cannot be passed by force.
    """

    what: str
    hint: str
    firm: bool = False


@dataclass(frozen=True, slots=True)
class GateBounds:
    """Limits within which the gate is open: lag in messages, age of a proof in seconds, free disk space in bytes."""

    lag: int = 1000
    parity_s: float = 3600.0
    room: int = 256 << 20


@dataclass(frozen=True, slots=True)
class GateFacts:
    """All facts that the gate looks at before a switch, as they were found.

    `parity`: the last verdict, None: never compared. `running`, `dual`: whether a bridge carries, and mirrors. Lags in
    messages, None: not known. `workers`: how many of the component give a heartbeat; `position`: whether it is known
    how far it has read, `why_not` else. `quarantined`: messages that are set aside and not acknowledged. `only_redis`:
    unread messages that no file holds; `deleted`: others may have been deleted from the stream. `room`: bytes free on
    the files' disk.
    """

    retired: bool = False
    proof: dict[str, Any] | None = None
    """The last proof in short, for the journal."""
    parity: str | None = None
    parity_age_s: float = 0.0
    running: bool = False
    young: bool = False
    """Whether the bridge has just started, and has not said yet what it does."""
    dual: bool = False
    has_mirror: bool = True
    forward_lag: int | None = None
    mirror_lag: int | None = None
    troubles: tuple[str, ...] = ()
    workers: int = 0
    position: bool = True
    why_not: str = ""
    quarantined: int = 0
    unaccounted: tuple[str, ...] = ()
    """What of the mapping's files is unaccounted, in words."""
    only_redis: int = 0
    deleted: bool = False
    aof: bool = True
    evicts: str = ""
    failing: str = ""
    accepts_volatile: bool = False
    room: int = 1 << 62


def sides_of(kind: KindTraits) -> tuple[str, ...]:
    """Lists which sides of a component can be switched in a mapping of this kind: reads and writes, or only writes.

    Of all but a log only what it writes: how far it has read an inbox cannot be told in Redis, and a latest value may
    be read on either side at any time.
    """
    return (READS, WRITES) if kind.lines else (WRITES,)


def steps(modes: ComponentModes, component: str, mapping: str, sides: tuple[str, ...], to: str) -> list[SwitchStep]:
    """Lists a component's switches to a side, in the order that the gate allows: reads go first, and come back last."""
    order = (WRITES, READS) if to == FILE else (READS, WRITES)
    now = {READS: modes.reads, WRITES: modes.writes}
    return [SwitchStep(component, mapping, side, to) for side in order if side in sides and now[side] != to]


def allowed(step: SwitchStep, modes: ComponentModes, *, reader: bool) -> GateReason | None:
    """Checks that a switch may come next by the order of reads and writes; returns the gate's reason against it.

    `reader`: the component reads this mapping at all, as far as anybody knows.
    """
    if step.side == WRITES and step.to == REDIS and modes.reads == FILE and reader:
        what = f"{step.component} still reads the files, and reads move first"
        return GateReason(what, f"bridge cutover {step.component} --mapping {step.mapping} --reads", firm=True)
    if step.side == READS and not step.forth and modes.writes != FILE and reader:
        what = (
            f"{step.component} still writes to {'both sides' if modes.writes == BOTH else 'Redis'}, and writes go back"
        )
        return GateReason(
            f"{what} first", f"bridge rollback {step.component} --mapping {step.mapping} --writes", firm=True
        )
    return None


def gate(
    step: SwitchStep, modes: ComponentModes, facts: GateFacts, bounds: GateBounds, *, reader: bool
) -> list[GateReason]:
    """Lists every reason why the gate is closed to a switch now; none: the gate is open."""
    if facts.retired:
        return [
            GateReason(f"{step.mapping} is retired", f"`bridge unretire {step.mapping}` begins it again", firm=True)
        ]
    found = [allowed(step, modes, reader=reader), *_carrying(facts, bounds), *_component(step, facts)]
    if step.forth:
        found += [*_proved(step, facts, bounds), *durable(facts)]
    if not step.forth and facts.deleted:
        what = f"entries that {step.component} has not read may have been deleted from the stream"
        found.append(GateReason(what, "their lines in the files are passed over; read there what you need"))
    if not step.forth and facts.only_redis:
        what = f"{facts.only_redis} messages that {step.component} has not read stand in no file"
        found.append(GateReason(what, "see `bridge quarantine list`; with --force they are not read until it is back"))
    if facts.room < bounds.room:
        what = f"the files' disk has {facts.room >> 20} MiB left, fewer than {bounds.room >> 20}"
        found.append(GateReason(what, "make room: the mirror writes there"))
    return [reason for reason in found if reason is not None]


def _carrying(facts: GateFacts, bounds: GateBounds) -> list[GateReason]:
    """Lists the gate's reasons where the bridge does not carry both directions, or has too much lag.

    Without both there is neither a way over nor a way back.
    """
    found = []
    if not facts.running:
        found.append(GateReason("no bridge runs here, or it hangs", "start one: bridge run --dual", firm=True))
    elif facts.young:
        found.append(GateReason("the bridge has just started", "try again in a moment", firm=True))
    elif not facts.has_mirror:
        found.append(GateReason("this mapping has no mirror, so there is no way back to the files",
                            "give it a [mirror], or pass the gate with --force"))  # fmt: skip
    elif not facts.dual:
        found.append(GateReason("the bridge does not mirror, so there is no way back to the files",
                            "stop it and start it with --dual", firm=True))  # fmt: skip
    for name, lag in (("forward", facts.forward_lag), ("the mirror", facts.mirror_lag)):
        if facts.young or (name != "forward" and not (facts.has_mirror and facts.dual)):
            continue
        if lag is None:
            found.append(GateReason(f"how far {name} has come is not known", "see `bridge status`"))
        elif lag > bounds.lag:
            what = f"{name} is {lag:,} messages behind, more than {bounds.lag:,}"
            found.append(GateReason(what, "wait until it has caught up, see `bridge status`"))
    found += [GateReason(f"the bridge waits: {trouble}", "see `bridge status`") for trouble in facts.troubles]
    return found


def _component(step: SwitchStep, facts: GateFacts) -> list[GateReason]:
    if step.side == READS and not facts.position:
        what = f"how far {step.component} has read is not known{f': {facts.why_not}' if facts.why_not else ''}"
        hint = "start it with our client, let it acknowledge, or say it: --from OFFSET" if step.forth else (
            "say it: --from ENTRY-ID")  # fmt: skip
        return [GateReason(what, hint, firm=True)]
    if not facts.workers:
        what = f"{step.component} gives no heartbeat"
        return [GateReason(what, "start it; a program without our client is stopped first, and switched with --force")]
    return []


def _proved(step: SwitchStep, facts: GateFacts, bounds: GateBounds) -> list[GateReason]:
    hint = f"bridge parity {step.mapping}"
    found = []
    if facts.parity is None:
        found.append(GateReason("it was never proved that both sides hold the same", hint))
    elif facts.parity != "equal":
        found.append(GateReason(f"parity said '{facts.parity}' last", f"{hint}, and then `bridge repair`"))
    elif facts.parity_age_s > bounds.parity_s:
        what = f"the last proof is {facts.parity_age_s / 60:.0f} minutes old, more than {bounds.parity_s / 60:.0f}"
        found.append(GateReason(what, hint))
    if facts.unaccounted:
        more = f" (and {len(facts.unaccounted) - 1} more)" if len(facts.unaccounted) > 1 else ""
        hint = (
            "`bridge files` shows it, `bridge repair` brings it over, `bridge files --leave` says that it is not ours"
        )
        found.append(GateReason(f"{facts.unaccounted[0]}{more}", hint))
    if facts.quarantined:
        some = f"{facts.quarantined} message{'s' * (facts.quarantined != 1)}"
        found.append(GateReason(f"{some} of this mapping in quarantine stand on one side only",
                            "`bridge quarantine list`, then `retry` or `acknowledge` them"))  # fmt: skip
    return found


def durable(facts: GateFacts) -> list[GateReason]:
    """Lists the gate's reasons where Redis may lose data: it fails to save, has no append-only file, or evicts keys.

    After a switch Redis holds, for a moment at least, messages that nothing else holds.
    """
    found = []
    if facts.failing:
        found.append(
            GateReason(f"Redis fails to save: {facts.failing}", "mend that first: `redis-cli info persistence`")
        )
    if facts.accepts_volatile:
        return found
    if not facts.aof:
        what = "Redis keeps no append-only file: a restart loses what was written since the last snapshot"
        found.append(GateReason(what, "`redis-cli config set appendonly yes`, and the same in its redis.conf; or accept"
                            " it with --accept-volatile"))  # fmt: skip
    if facts.evicts:
        what = f"Redis may throw keys away when its memory is full (maxmemory-policy {facts.evicts})"
        found.append(GateReason(what, "set maxmemory-policy to noeviction; or accept it with --accept-volatile"))
    return found
