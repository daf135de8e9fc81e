"""One switch of one component (DESIGN §6.6): asked for, paused, translated, journaled, made.

Until the journal has it, whatever fails leaves all as it was: the request lapses by itself. From there on it is made,
by this process or by the next that starts.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bridge.carry.shared import Shared
from bridge.config import Settings
from bridge.cutover.phase import Bounds, Facts, Reason, Step, gate
from bridge.cutover.plan import Done, Pending, Plan, Stretch
from bridge.cutover.position import InStream
from bridge.cutover.whereabouts import Whereabouts, said_files, said_stream
from bridge.errors import BridgeError
from bridge.files.bookmark import Bookmark
from bridge.ledger import twofold
from bridge.ledger.journal import amend
from bridge.ledger.journal import begin as journal_begin
from bridge.ledger.sources import stream_memory
from bridge.ledger.store import Ledger
from bridge.log import log
from bridge.model import ORIGIN_FIELD, ZERO_ID, Checkpoint, EntryId, Position, format_id
from bridge.points import reached
from bridge.streams.components import (
    BOTH,
    FILE,
    READS,
    WRITES,
    Modes,
    Switch,
    Worker,
    announced_positions,
    begin,
    drop_group,
    flip,
    give_up,
    hold,
    look,
    make_group,
    workers_of,
)
from bridge.streams.connect import Connection
from bridge.streams.reader import entries_back, stream_info
from bridge.streams.writer import read_books

HOLD_MS = 5_000
LONG_HOLD_MS = 60_000
"""How long a component waits for an operator that is gone, in milliseconds; and while its position is translated."""

PATIENCE = 20.0
"""Seconds in which the component must pause, and both directions catch up, before a switch is given up."""

LOOKS = 0.02
KEPT = ("reason", "forced", "parity")
"""What the journal says of a switch that has nothing to do with the position."""

NEAR = 2000
"""Entries, from the newest back, among which the last Redis-born one is looked for."""


class Refused(BridgeError):
    """The gate is closed, or somebody else switches: nothing was changed."""

    exit_code = 3


class Switcher:
    """Of one mapping. `wait` waits so many seconds and says whether to stop; `given` is a position said by hand."""

    def __init__(
        self, shared: Shared, settings: Settings, ledger: Ledger, connection: Connection, who: str,
        wait: Callable[[float], object], *, given: str | None = None,
    ) -> None:  # fmt: skip
        self._shared = shared
        self._ledger = ledger
        self._connection = connection
        self._who = who
        self._wait = wait
        self._where = Whereabouts(shared, settings, ledger, connection, given)
        self._keys = shared.keys
        self._name = shared.mapping.name

    # -- looking ---------------------------------------------------------------------------------------------

    def plan(self, step: Step, facts: Facts, bounds: Bounds, *, then: Modes | None = None) -> Plan:
        """What it would do, and what speaks against it; changes nothing. `then`: when the modes are these."""
        modes, now = look(self._connection, step.component, self._name)
        modes = then or modes
        announced = announced_positions(self._connection, self._keys)
        plan = Plan(step, modes, parity=facts.proof, workers=workers_of(announced, step.component, now))
        reader, why_not, only_redis, deleted = self._where.reads(step, modes, announced), "", 0, False
        if step.side == READS and not reader and plan.workers:
            plan.before = "nothing: it has never read here"
        elif step.side == READS:
            try:
                if step.forth:
                    position = self._where.in_files(step, modes, announced, plan.workers)
                    target = self._where.to_stream(position)
                    plan.before, plan.again = said_files(position), len(target.again)
                    plan.after = said_stream(target)
                else:
                    plan.before, files = self._where.before(step), self._where.to_files(step)
                    plan.after, only_redis, plan.again = said_files(files), files.only_redis, files.again
                    deleted = files.deleted
            except BridgeError as error:
                why_not = str(error)
        facts = replace(
            facts,
            workers=len(plan.workers),
            position=not why_not,
            why_not=why_not,
            only_redis=only_redis,
            deleted=deleted,
        )
        plan.reasons = gate(step, modes, facts, bounds, reader=reader)
        if self._where.given is not None and plan.workers:
            what = f"{step.component} runs, and tells itself how far it has read: --from is for one that is stopped"
            plan.reasons.insert(0, Reason(what, "leave --from out, or stop it first", firm=True))
        if modes.switch is not None:
            what = f"{modes.switch.who} is switching {step.component} at this moment"
            plan.reasons.insert(0, Reason(what, "wait until that is done", firm=True))
        return plan

    def finish(self, step: Step, number: int, facts: dict[str, Any]) -> str:
        """Makes a switch that was decided, and says what became of it. Raises BridgeError: it cannot be made."""
        modes, _ = look(self._connection, step.component, self._name)
        if modes.epoch >= int(facts["epoch"]):
            made = modes.epoch > int(facts["epoch"]) or getattr(modes, step.side) == step.to
            amend(self._ledger, number, facts | {"state": "done" if made else "undone"})
            return "was made" if made else "was overtaken"
        if modes.switch is not None and modes.switch.token == facts["token"] and self._flipped_now(step, modes, facts):
            amend(self._ledger, number, facts | {"state": "done"})
            return "is made"
        while modes.switch is not None:  # the component still waits, or somebody else switches it
            self._wait(LOOKS)
            modes, _ = look(self._connection, step.component, self._name)
        self.execute(step, modes.epoch, {name: facts.get(name) for name in KEPT if name in facts}, number)
        return "is made"

    def _flipped_now(self, step: Step, modes: Modes, facts: dict[str, Any]) -> bool:
        """Whether a switch that the component still waits for could be made with what was found out for it."""
        bookmark, after = self._where.bookmark(step), modes.after(step.side, step.to)
        back = step.side == READS and not step.forth
        pending = Pending(alive=True, held=step.side == READS and bookmark.lock(), position=facts["position"])
        try:
            if back:
                pending.files = self._where.told(facts["position"])
                pending.group = self._where.group(step)
            token, position = str(facts["token"]), pending.position
            outcome = flip(
                self._connection, self._keys, step.component, self._name, token, after, position, pending.group
            )
            if outcome == "flipped":
                pending.note(bookmark, step, after)
            return outcome == "flipped"
        finally:
            bookmark.close()

    # -- switching -------------------------------------------------------------------------------------------

    def execute(self, step: Step, epoch: int, facts: dict[str, Any], number: int | None = None) -> Done:
        """Makes the switch, if nothing was switched since `epoch`.

        `facts` go into the journal; `number` is the entry of a switch that was decided before and is made now. Raises
        Refused, BridgeError: nothing was changed; or NotYet: it is decided, and will be made.
        """
        began, token = time.monotonic(), secrets.token_hex(6)
        wish = Switch(token, step.side, step.to, self._who, 0)
        reached("switch.begin.before")
        mine, modes = begin(self._connection, step.component, self._name, epoch, wish, HOLD_MS)
        if not mine:
            raise _overtaken(step, modes)
        reached("switch.begin.after")
        bookmark = self._where.bookmark(step)
        decided, pending = number is not None, None
        try:
            pending = self._prepared(step, modes, token, bookmark, began + PATIENCE)
            self._hold(step, token)
            reached("switch.pause.after")
            after = modes.after(step.side, step.to)
            told = {
                **facts, "component": step.component, "mapping": self._name, "side": step.side, "to": step.to,
                "epoch": after.epoch, "token": token, "before": pending.before, "after": pending.after,
                "again": pending.again, "twofold": pending.stretch.said() if pending.stretch is not None else None,
                "position": pending.position, "state": "decided",
            }  # fmt: skip
            reached("switch.journal.before")
            if number is None:
                what = "rollback" if step.to == FILE else "cutover"
                number = journal_begin(self._ledger, time.time(), self._who, what, self._keys.stream.decode(), told)
            else:
                amend(self._ledger, number, told)
            decided = True
            reached("switch.journal.after")
            outcome = flip(
                self._connection, self._keys, step.component, self._name, token, after, pending.position, pending.group
            )
            if outcome != "flipped":
                amend(self._ledger, number, told | {"state": "undone", "why": outcome})
                said = "lapsed" if outcome == "lapsed" else "was overtaken"
                hint = "nothing was changed; try it again"
                raise Refused(f"the switch took too long and {said}", where=str(step), hint=hint)
            reached("switch.flip.after")
            pending.note(bookmark, step, after)
            amend(self._ledger, number, told | {"state": "done"})
            reached("switch.done.after")
        except BaseException as error:
            if not decided or isinstance(error, Refused):
                if pending is not None and pending.stretch is not None:
                    pending.stretch.undo()
                if bookmark.locked and bookmark.marks.doubt == token:
                    bookmark.marks.doubt = ""
                    bookmark.save()
                self._take_back(step, token)
            raise
        finally:
            bookmark.close()
        went_on = self._went_on(step, after, pending.alive)
        return Done(step, after, time.monotonic() - began, pending.before, pending.after, pending.again, went_on)

    def _take_back(self, step: Step, token: str) -> None:
        """Leaves all as it was; what cannot be taken back lapses."""
        try:
            if give_up(self._connection, step.component, self._name, token) and step.forth and step.side == READS:
                drop_group(self._connection, self._keys.stream, step.component)
        except BridgeError as error:
            log.warning("the request to switch is left to lapse within %d s: %s", HOLD_MS // 1000, error)

    def _prepared(self, step: Step, modes: Modes, token: str, bookmark: Bookmark, until: float) -> Pending:
        alive = self._await_pause(step, token, until)
        reads_files = any(one.following and one.reads == FILE for one in alive)
        held = step.side == READS and not reads_files and bookmark.lock()
        if step.side == READS and not reads_files and not held:
            hint = "stop it, or let it reach Redis"
            raise BridgeError("a process of it holds its bookmark and does not answer", where=str(step), hint=hint)
        if held:
            marks = bookmark.load()
            marks.doubt = token
            bookmark.save()
        self._await_cursors(step, token, until)
        self._hold(step, token, LONG_HOLD_MS)
        pending = Pending(alive=bool(alive), held=held)
        if BOTH in (step.to, modes.writes) and step.side == WRITES:
            pending.stretch = self._twofold(step, token, until)
        announced = announced_positions(self._connection, self._keys)
        if step.side != READS or (alive and not self._where.reads(step, modes, announced)):
            return pending
        if step.forth:
            position = self._where.in_files(step, modes, announced, alive)
            target = self._where.to_stream(position)
            make_group(self._connection, self._keys.stream, step.component, target.last, target.unread, target.again)
            pending.again = len(target.again)
            pending.before, pending.after = said_files(position), said_stream(target)
            pending.position = {"epoch": modes.epoch + 1, "entry": format_id(target.last).decode()}
        else:
            group = self._where.group(step)
            files = self._where.to_files(step)
            pending.group = None if self._where.given is not None else group
            pending.before = said_stream(InStream(group.last, tuple(sorted(group.pending))))
            pending.after, pending.again, pending.files = said_files(files), files.again, files
            pending.position = {
                "epoch": modes.epoch + 1, "entry": format_id(files.entry).decode(),
                "files": {name: place.to_json() for name, place in files.places.items()},
                "aside": [format_id(one).decode() for one in sorted(files.aside)],
            }  # fmt: skip
        return pending

    def _twofold(self, step: Step, token: str, until: float) -> Stretch:
        """Where both directions begin, or end, to leave alone what the component writes: they have noted it."""
        stream = self._keys.stream.decode()
        if step.to == BOTH:
            roles = self._shared.settings.components.get(step.component, frozenset())
            if not roles:
                hint = f'[components.{step.component}] roles = ["…"]'
                raise BridgeError("its roles are not declared in bridge.toml", where=step.component, hint=hint)
            made = Stretch(
                self._ledger, stream, step.component, twofold.begin(self._ledger, stream, step.component, roles)
            )
        else:
            twofold.end(self._ledger, stream, step.component, ended=True)
            made = Stretch(self._ledger, stream, step.component, 0)
        try:
            while not made.noted(self._shared.source_names(), mirrored=self._shared.mapping.mirror is not None):
                self._patiently(until, "the bridge did not take notice", step, token)
        except BaseException:
            made.undo()
            raise
        return made

    def _hold(self, step: Step, token: str, hold_ms: int = HOLD_MS) -> None:
        """Raises Refused: the switch has lapsed."""
        if not hold(self._connection, step.component, self._name, token, hold_ms):
            raise Refused("the switch took too long and lapsed", where=str(step), hint="nothing was changed; try again")

    def _await_pause(self, step: Step, token: str, until: float) -> list[Worker]:
        """The component's workers, when all that live have said that they wait."""
        while True:
            self._hold(step, token)
            _, now = look(self._connection, step.component, self._name)
            alive = workers_of(announced_positions(self._connection, self._keys), step.component, now)
            busy = [one.where for one in alive if token not in one.paused]
            if not busy:
                return alive
            if time.monotonic() > until:
                hint = "it pauses between two messages: is it busy with one, or hung? If it was killed, wait 10 s"
                raise BridgeError(
                    f"it did not pause in {PATIENCE:.0f} s: {', '.join(busy)}", where=str(step), hint=hint
                )
            self._wait(LOOKS)

    def _await_cursors(self, step: Step, token: str, until: float) -> None:
        """Waits until the mirror has passed what stands in the stream now, then forward what stands in the files."""
        newest = self._newest_born()
        while self._shared.mapping.mirror is not None:
            memory = stream_memory(self._ledger, self._keys.stream.decode())
            if memory is not None and memory.mirror_cursor >= newest:
                break
            self._patiently(until, "the mirror did not catch up", step, token)
        ends = {name: end for name in self._shared.source_names() if (end := self._whole_end(name)) is not None}
        while True:
            stored = read_books(self._connection, self._keys).checkpoint
            at = {os.fsdecode(name): Checkpoint.from_json(raw).position for name, raw in stored.items()}
            if all(at.get(name, Position(0, 0)) >= end for name, end in ends.items()):
                return
            self._patiently(until, "forward did not catch up", step, token)

    def _patiently(self, until: float, what: str, step: Step, token: str) -> None:
        self._hold(step, token)
        if time.monotonic() > until:
            hint = "does `bridge run --dual` run? See `bridge status`"
            raise BridgeError(f"{what} in {PATIENCE:.0f} s", where=str(step), hint=hint)
        self._wait(LOOKS)

    def _newest_born(self) -> EntryId:
        """The newest Redis-born entry; where there is none near the end, the stream's last ID."""
        last = stream_info(self._connection, self._keys.stream).last_id
        for count, entry in enumerate(entries_back(self._connection, self._keys.stream, format_id(last))):
            if ORIGIN_FIELD not in entry.fields:
                return entry.id
            if count >= NEAR:
                return last
        return ZERO_ID

    def _whole_end(self, name: str) -> Position | None:
        """Behind the last whole line of a file; None when it has none."""
        tail = self._shared.tail(name, self._ledger)
        tail.look()
        one = tail.current()
        end = one.size() if one is not None else 0
        while one is not None and end > 0:
            begin_at = max(0, end - (1 << 16))
            newline = one.read(end - begin_at, begin_at).rfind(b"\n")
            if newline >= 0:
                return Position(one.number, begin_at + newline + 1)
            end = begin_at
        return None

    def _went_on(self, step: Step, after: Modes, alive: bool) -> bool:
        """Whether a live component has been seen to go on in the new epoch."""
        until = time.monotonic() + PATIENCE
        while alive and time.monotonic() < until:
            _, now = look(self._connection, step.component, self._name)
            announced = announced_positions(self._connection, self._keys)
            said = [announced[f"{step.component}/{one.name}"] for one in workers_of(announced, step.component, now)]
            if said and all(one.get("epoch") == after.epoch and not one.get("paused") for one in said):
                return True
            self._wait(LOOKS)
        return False


def _overtaken(step: Step, modes: Modes) -> Refused:
    if modes.switch is not None:
        return Refused(
            f"{modes.switch.who} is switching it at this moment", where=str(step), hint="wait until that is done"
        )
    return Refused("it was switched meanwhile", where=str(step), hint="look at it again: the plan was made before that")
