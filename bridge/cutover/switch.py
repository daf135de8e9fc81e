"""Makes one switch of one component (DESIGN §6.6): asked for, paused, translated, journaled, made.

Until the journal has the switch, whatever fails leaves all as it was: the request lapses by itself. From there on the
switch is made, by this process or by the next that starts.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bridge.client.bookmark import Bookmark
from bridge.core.config import Settings
from bridge.core.errors import BridgeError, ReplicasBehind
from bridge.core.failpoints import failpoint
from bridge.core.logger import logger
from bridge.core.model import format_id
from bridge.cutover.gate import GateBounds, GateFacts, GateReason, SwitchStep, gate
from bridge.cutover.plan import PendingSwitch, SwitchPlan, SwitchReport
from bridge.cutover.position import StreamPosition
from bridge.cutover.position_store import PositionStore, file_position_in_words, stream_position_in_words
from bridge.cutover.switch_request import SwitchRequest, asked_of
from bridge.cutover.switch_waits import HOLD_MS, LONG_HOLD_MS, LOOK_PAUSE, SwitchRefused, SwitchTakenOver, SwitchWaits
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.journal import amend, facts_of
from bridge.ledger.journal import begin as journal_begin
from bridge.ledger.states import owner_of
from bridge.ledger.store import Ledger
from bridge.streams.component_groups import ComponentWorker, announced_positions, drop_group, make_group, workers_of
from bridge.streams.components import BOTH, FILE, READS, REDIS, WRITES, ComponentModes, SwitchInProgress
from bridge.streams.connect import Connection
from bridge.streams.replicas import wait_for_replicas

BEFORE_SECONDS = 2.0
"""Seconds for which a switch waits for replicas before it is decided: the component pauses meanwhile."""

JOURNAL_KEYS = ("reason", "forced", "parity")
"""What the journal says of a switch beside its position."""


class Switcher:
    """Makes the switches of components in one mapping: plans, executes, finishes after a crash, or takes back.

    `wait` waits so many seconds and says whether to stop; `given` is a position said by hand.
    """

    def __init__(
        self, shared: MappingContext, settings: Settings, ledger: Ledger, connection: Connection, who: str,
        wait: Callable[[float], object], *, given: str | None = None,
    ) -> None:  # fmt: skip
        self._shared = shared
        self._ledger = ledger
        self._connection = connection
        self._who = who
        self._wait = wait
        self._where = PositionStore(shared, settings, ledger, connection, given)
        self._keys = shared.keys
        self._name = shared.mapping.name
        self._positions = shared.mapping.kind.lines
        """Whether the mapping's readers have a position that both sides can tell."""

    # -- looking ---------------------------------------------------------------------------------------------

    def plan(
        self, step: SwitchStep, facts: GateFacts, bounds: GateBounds, *, then: ComponentModes | None = None
    ) -> SwitchPlan:
        """Plans a switch without changing anything: what it would do, and the gate's reasons against it.

        `then`: the component's modes to plan with, if not those of now.
        """
        modes, now = self._shared.components.read(self._connection, step.component)
        found, modes = modes, then or modes
        announced = announced_positions(self._connection, self._keys)
        plan = SwitchPlan(step, modes, parity=facts.proof, workers=workers_of(announced, step.component, now))
        why_not, only_redis, deleted = "", 0, False
        reader = self._positions and self._where.reads(step, modes, announced)
        plan.notice = self._notice(step, found)
        if step.side == READS and not reader and (plan.workers or self._where.never_read(step)):
            plan.before = "nothing: it has never read here"
        elif step.side == READS:
            try:
                if step.forth:
                    position = self._where.in_files(step, modes, announced, plan.workers)
                    target = self._where.to_stream(position, at_rest=not plan.workers)
                    plan.before, plan.again = file_position_in_words(position), len(target.again)
                    plan.after = stream_position_in_words(target)
                else:
                    plan.before, files = self._where.before(step), self._where.to_files(step)
                    plan.after, only_redis, plan.again = file_position_in_words(files), files.only_redis, files.again
                    deleted = files.deleted
            except BridgeError as error:
                why_not = str(error)
        facts = replace(
            facts, workers=len(plan.workers), position=not why_not, why_not=why_not, only_redis=only_redis,
            deleted=deleted,
        )  # fmt: skip
        plan.reasons = gate(step, modes, facts, bounds, reader=reader)
        if self._where.given is not None and plan.workers:
            what = f"{step.component} runs, and tells itself how far it has read: --from is for one that is stopped"
            plan.reasons.insert(0, GateReason(what, "leave --from out, or stop it first", firm=True))
        if modes.switch is not None:
            what = f"{modes.switch.who} is switching {step.component} at this moment"
            plan.reasons.insert(0, GateReason(what, "wait until that is done", firm=True))
        plan.reasons += self._of_values(step, announced)
        return plan

    def _lost(self, step: SwitchStep, modes: ComponentModes) -> bool:
        """Whether Redis has lost a component's switch of latest values: the ledger names another owner than Redis."""
        mapping = self._shared.mapping
        if not mapping.kind.latest:
            return False
        owner = owner_of(self._ledger, mapping.stream.key, mapping.source.owner)
        return owner.component == step.component and owner.side != modes.writes

    def _notice(self, step: SwitchStep, modes: ComponentModes) -> str:
        if not self._shared.mapping.kind.latest:
            return ""
        said = f"its values, all of {self._shared.mapping.source.path}, are owned by the side it writes to"
        if self._lost(step, modes):
            replaced = "Redis" if step.to == FILE else "the files"
            said += f"; Redis had lost where that is, and what {replaced} may hold of later values is replaced"
        return said

    def _of_values(self, step: SwitchStep, announced: dict[str, dict[str, Any]]) -> list[GateReason]:
        """Lists further reasons against a switch of latest values: overlapping mappings, writers on the other side."""
        found, path = list[GateReason](), self._shared.mapping.source.path
        if not self._shared.mapping.kind.latest:
            return found
        for other in (*self._shared.settings.mappings, *self._shared.settings.neighbours):
            if step.to == REDIS and other.name != self._name and other.claims(path):
                what = f"the bridge would write {path}, which mapping '{other.name}' reads"
                found.append(GateReason(what, "let it exclude these files", firm=True))
        others = self._shared.components.names(self._connection) | {name.split("/")[0] for name in announced}
        for name in sorted(others - {step.component}):
            modes, _ = self._shared.components.read(self._connection, name)
            if modes.writes != step.to:
                what = f"{name} goes on writing the other side's values, and they would be replaced"
                hint = "does it write them? Then give what each writes a mapping of its own; else --force"
                found.append(GateReason(what, hint))
        return found

    def finish(self, step: SwitchStep, number: int) -> str:
        """Makes a switch that was decided before, by the journal's entry, and says what became of it.

        Raises BridgeError: it cannot be made, now.
        """
        while True:
            modes, _ = self._shared.components.read(self._connection, step.component)
            facts = facts_of(self._ledger, number)  # after the look: a process that makes it noted its token before
            if facts["state"] != "decided":
                return "is settled"
            if modes.epoch >= int(facts["epoch"]):
                return self._found_made(step, number, facts, modes)
            if modes.switch is None:
                break
            if modes.switch.token == facts["token"] and self._flipped_now(step, modes, facts):
                self._settle(self._asked(step, facts), made=True)
                amend(self._ledger, number, facts | {"state": "done"})
                return "is made"
            self._wait(LOOK_PAUSE)  # the component still waits, or somebody else switches it
        self._settle(self._asked(step, facts), made=False)  # `execute` asks anew
        self.execute(step, modes.epoch, {name: facts.get(name) for name in JOURNAL_KEYS if name in facts}, number)
        return "is made"

    def take_back(self, step: SwitchStep, number: int, why: BridgeError) -> str:
        """Takes back a switch that was decided and cannot be made, unless it was made; says what became of it."""
        modes, _ = self._shared.components.read(self._connection, step.component)
        facts = facts_of(self._ledger, number)
        if facts["state"] != "decided":
            return "is settled"
        if modes.epoch >= int(facts["epoch"]):
            return self._found_made(step, number, facts, modes)
        self._settle(self._asked(step, facts), made=False)
        amend(self._ledger, number, facts | {"state": "undone", "why": str(why), "ended": time.time()})
        return f"taken back: {why}"

    def _found_made(self, step: SwitchStep, number: int, facts: dict[str, Any], modes: ComponentModes) -> str:
        made = modes.epoch > int(facts["epoch"]) or getattr(modes, step.side) == step.to
        self._settle(self._asked(step, facts), made=made)
        amend(self._ledger, number, facts | {"state": "done" if made else "undone"})
        return "was made" if made else "was overtaken"

    def _asked(self, step: SwitchStep, facts: dict[str, Any]) -> SwitchRequest | None:
        """Rebuilds from the journal what an unfinished switch had asked of the running bridge; None: nothing."""
        if facts.get("asked") is None:
            return None
        return asked_of(step, str(facts["token"]), self._shared, self._ledger, both=True)

    @staticmethod
    def _settle(asked: SwitchRequest | None, *, made: bool) -> None:
        if asked is not None and made:
            asked.made()
        elif asked is not None:
            asked.undo()

    def _flipped_now(self, step: SwitchStep, modes: ComponentModes, facts: dict[str, Any]) -> bool:
        """Makes a decided switch for which the component still waits, with the position that the journal has.

        Returns whether the switch was made.
        """
        bookmark, after = self._where.bookmark(step), modes.after(step.side, step.to)
        back = step.side == READS and not step.forth
        pending = PendingSwitch(alive=True, held=step.side == READS and bookmark.lock(), position=facts["position"])
        try:
            if back:
                pending.files = self._where.told(facts["position"])
                pending.group = self._where.group(step)
            token, position = str(facts["token"]), pending.position
            self._shared.components.hold(self._connection, step.component, token, HOLD_MS)
            self._await_replicas(BEFORE_SECONDS)
            outcome = self._shared.components.flip(
                self._connection, step.component, token, after, position, pending.group
            )
            if outcome == "flipped":
                pending.note(bookmark, step, after)
            return outcome == "flipped"
        finally:
            bookmark.close()

    # -- switching -------------------------------------------------------------------------------------------

    def execute(self, step: SwitchStep, epoch: int, facts: dict[str, Any], number: int | None = None) -> SwitchReport:
        """Makes a switch, if nothing was switched since `epoch`.

        `facts` go into the journal; `number` is the entry of a switch that was decided before and is made now. Raises
        SwitchRefused, BridgeError: nothing was changed; or NotYet: it is decided, and will be made.
        """
        began, token = time.monotonic(), secrets.token_hex(6)
        wish = SwitchInProgress(token, step.side, step.to, self._who, 0)
        failpoint("switch.begin.before")
        mine, modes = self._shared.components.begin(self._connection, step.component, epoch, wish, HOLD_MS)
        if not mine:
            raise _overtaken(step, modes)
        failpoint("switch.begin.after")
        bookmark = self._where.bookmark(step)
        waiting = SwitchWaits(self._shared, self._ledger, self._connection, self._wait, step, token)
        noted, pending = False, None
        try:
            pending = self._prepared(step, modes, token, bookmark, waiting)
            self._await_replicas(BEFORE_SECONDS)
            waiting.hold()
            failpoint("switch.pause.after")
            after = modes.after(step.side, step.to)
            told = {
                **facts, "component": step.component, "mapping": self._name, "side": step.side, "to": step.to,
                "epoch": after.epoch, "token": token, "before": pending.before, "after": pending.after,
                "again": pending.again, "asked": pending.asked.said() if pending.asked is not None else None,
                "position": pending.position, "state": "decided",
            }  # fmt: skip
            failpoint("switch.journal.before")
            if number is None:
                what = "rollback" if step.to == FILE else "cutover"
                number = journal_begin(self._ledger, time.time(), self._who, what, self._keys.stream.decode(), told)
            else:
                amend(self._ledger, number, told)
            noted = True
            failpoint("switch.journal.after")
            outcome = self._shared.components.flip(
                self._connection, step.component, token, after, pending.position, pending.group
            )
            if outcome != "flipped" and not self._made(step, after):
                amend(self._ledger, number, told | {"state": "undone", "why": outcome})
                said = "lapsed" if outcome == "lapsed" else "was overtaken"
                hint = "nothing was changed; try it again"
                raise SwitchRefused(f"the switch took too long and {said}", where=str(step), hint=hint)
            failpoint("switch.flip.after")
            try:
                self._await_replicas(self._shared.settings.replicas_timeout)
            except ReplicasBehind as error:
                logger.warning("%s is made; a failover may take it back: %s", step, error)
            pending.note(bookmark, step, after)
            self._settle(pending.asked, made=True)
            amend(self._ledger, number, told | {"state": "done"})
            failpoint("switch.done.after")
        except BaseException as error:
            if not noted or isinstance(error, SwitchRefused):
                self._settle(pending.asked if pending is not None else None, made=False)
                if bookmark.locked and bookmark.marks.doubt == token:
                    bookmark.marks.doubt = ""
                    bookmark.save()
                self._take_back(step, token)
            raise
        finally:
            bookmark.close()
        went_on = pending.alive and waiting.went_on(after.epoch)
        return SwitchReport(
            step, after, time.monotonic() - began, pending.before, pending.after, pending.again, went_on
        )

    def _await_replicas(self, seconds: float) -> None:
        """Has a switch wait until as many replicas as are wanted know what it changed: group, position, modes.

        It was changed over the switch's own connection, whose writes alone are waited for.
        Raises ReplicasBehind, RedisLost.
        """
        if self._shared.settings.replicas:
            wait_for_replicas(self._connection, self._shared.settings.replicas, seconds)

    def _made(self, step: SwitchStep, after: ComponentModes) -> bool:
        """Whether another process made the switch meanwhile, which it had found in the journal."""
        now, _ = self._shared.components.read(self._connection, step.component)
        return now.epoch == after.epoch and getattr(now, step.side) == step.to

    def _take_back(self, step: SwitchStep, token: str) -> None:
        """Gives up a failed switch in Redis, and drops a group made for it; what cannot be taken back lapses."""
        try:
            given_up = self._shared.components.give_up(self._connection, step.component, token)
            if given_up and step.forth and step.side == READS:
                drop_group(self._connection, self._keys.stream, step.component)
        except BridgeError as error:
            logger.warning("the request to switch is left to lapse within %d s: %s", HOLD_MS // 1000, error)

    def _prepared(
        self, step: SwitchStep, modes: ComponentModes, token: str, bookmark: Bookmark, waiting: SwitchWaits
    ) -> PendingSwitch:
        alive = waiting.paused()
        held = step.side == READS and self._held(step, token, bookmark, alive)
        lost = self._lost(step, modes)
        if self._positions:
            waiting.await_cursors()
        elif not lost:
            waiting.await_equal()
        pending = PendingSwitch(alive=bool(alive), held=held)
        if step.side == WRITES:
            asked = asked_of(step, token, self._shared, self._ledger, both=BOTH in (step.to, modes.writes))
            if asked is not None:
                waiting.ask(asked, equal=not self._positions and not lost)
            pending.asked = asked
            return pending
        waiting.hold(LONG_HOLD_MS)
        announced = announced_positions(self._connection, self._keys)
        if (alive or self._where.never_read(step)) and not self._where.reads(step, modes, announced):
            return pending
        if step.forth:
            position = self._where.in_files(step, modes, announced, alive)
            target = self._where.to_stream(position)
            make_group(self._connection, self._keys.stream, step.component, target.last, target.unread, target.again)
            pending.again = len(target.again)
            pending.before, pending.after = file_position_in_words(position), stream_position_in_words(target)
            pending.position = {"epoch": modes.epoch + 1, "entry": format_id(target.last).decode()}
        else:
            group = self._where.group(step)
            files = self._where.to_files(step)
            pending.group = None if self._where.given is not None else group
            pending.before = stream_position_in_words(StreamPosition(group.last, tuple(sorted(group.pending))))
            pending.after, pending.again, pending.files = file_position_in_words(files), files.again, files
            pending.position = {
                "epoch": modes.epoch + 1, "entry": format_id(files.entry).decode(),
                "files": {name: place.to_json() for name, place in files.places.items()},
                "aside": [format_id(entry_id).decode() for entry_id in sorted(files.aside)],
            }  # fmt: skip
        return pending

    def _held(self, step: SwitchStep, token: str, bookmark: Bookmark, alive: list[ComponentWorker]) -> bool:
        """Whether the switch of a component's reads may write its bookmark, which it locks if none of it reads files.

        Raises BridgeError: a process holds the bookmark and does not answer.
        """
        if any(worker.following and worker.reads == FILE for worker in alive):
            return False
        if not bookmark.lock():
            hint = "stop it, or let it reach Redis"
            raise BridgeError("a process of it holds its bookmark and does not answer", where=str(step), hint=hint)
        bookmark.load().doubt = token
        bookmark.save()
        return True


def _overtaken(step: SwitchStep, modes: ComponentModes) -> SwitchTakenOver:
    if modes.switch is not None:
        hint = "wait until that is done"
        return SwitchTakenOver(f"{modes.switch.who} is switching it at this moment", where=str(step), hint=hint)
    return SwitchTakenOver(
        "it was switched meanwhile", where=str(step), hint="look at it again: the plan was made before that"
    )
