"""Waits of a switch between asking and deciding: for the component, both directions, and the bridge's processes.

Each wait ends in a BridgeError when it takes too long, or somebody else took the switch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from threading import Event

from bridge.core.errors import BridgeError
from bridge.core.failpoints import failpoint
from bridge.core.model import ORIGIN_FIELD, ZERO_ID, Checkpoint, EntryId, Position, format_id
from bridge.cutover.gate import SwitchStep
from bridge.cutover.switch_request import SwitchRequest
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.sources import stream_memory
from bridge.ledger.store import Ledger
from bridge.parity.run_parity import check_of
from bridge.streams.component_groups import ComponentWorker, announced_positions, workers_of
from bridge.streams.connect import Connection
from bridge.streams.dial import dialler
from bridge.streams.reader import entries_back, stream_info
from bridge.streams.stream_metadata import read_metadata

HOLD_MS = 5_000
LONG_HOLD_MS = 60_000
"""Milliseconds for which a component waits for an operator that is gone; `LONG_HOLD_MS`: during slow steps."""

SWITCH_SECONDS = 20.0
"""Seconds in which the component must pause, and both directions catch up, before a switch is given up."""

LOOK_PAUSE = 0.02

NEWEST_ENTRIES = 2000
"""Entries, from the newest back, among which the last Redis-born one is looked for."""


class SwitchRefused(BridgeError):
    """A switch was refused: the gate is closed, or somebody else switches; nothing was changed."""

    exit_code = 3


class SwitchTakenOver(SwitchRefused):
    """A switch was refused because somebody else is switching the component, or has done so."""


class SwitchWaits:
    """Waits, for one switch that its token names, until component and bridge are ready for it.

    `wait` waits so many seconds.
    """

    def __init__(
        self, shared: MappingContext, ledger: Ledger, connection: Connection, wait: Callable[[float], object],
        step: SwitchStep, token: str,
    ) -> None:  # fmt: skip
        self._shared = shared
        self._ledger = ledger
        self._connection = connection
        self._wait = wait
        self._step = step
        self._token = token
        self._keys = shared.keys
        self._name = shared.mapping.name
        self._until = time.monotonic() + SWITCH_SECONDS

    def ask(self, asked: SwitchRequest, *, equal: bool) -> None:
        """Puts a switch's request to the bridge, and waits until everyone that carries has noted it, and waits too.

        `equal`: both sides must hold the same then. The request is taken back if anything fails.
        """
        self._until = time.monotonic() + SWITCH_SECONDS
        failpoint("switch.asked.before")
        asked.ask()
        try:
            while not asked.noted():
                self._patiently("the bridge did not take notice")
            if equal and not self._agree():
                hint = f"stop the program that writes it, or let it wait while {self._keys.components.decode()} says so"
                raise BridgeError("somebody wrote it meanwhile, on one side", where=str(self._step), hint=hint)
            failpoint("switch.asked.after")
        except BaseException:
            asked.undo()
            raise

    def hold(self, hold_ms: int = HOLD_MS) -> None:
        """Extends the switch's lease in Redis to so many milliseconds from now. Raises SwitchRefused: it has lapsed."""
        if not self._shared.components.hold(self._connection, self._step.component, self._token, hold_ms):
            raise SwitchRefused(
                "the switch took too long and lapsed", where=str(self._step), hint="nothing was changed; try again"
            )

    def paused(self) -> list[ComponentWorker]:
        """Waits until all living workers of the component have said that they pause for the switch; returns them."""
        while True:
            self.hold()
            _, now = self._shared.components.read(self._connection, self._step.component)
            alive = workers_of(announced_positions(self._connection, self._keys), self._step.component, now)
            busy = [worker.where for worker in alive if self._token not in worker.paused]
            if not busy:
                return alive
            if time.monotonic() > self._until:
                hint = "it pauses between two messages: is it busy with one, or hung? If it was killed, wait 10 s"
                raise BridgeError(
                    f"it did not pause in {SWITCH_SECONDS:.0f} s: {', '.join(busy)}", where=str(self._step), hint=hint
                )
            self._wait(LOOK_PAUSE)

    def await_cursors(self) -> None:
        """Waits for a switch until the mirror passes what the stream holds now, then forward what the files hold."""
        newest = self._newest_born()
        while self._shared.mapping.mirror is not None:
            memory = stream_memory(self._ledger, self._keys.stream.decode())
            if memory is not None and memory.mirror_cursor >= newest:
                break
            self._patiently("the mirror did not catch up")
        ends = {name: end for name in self._shared.source_names() if (end := self._whole_end(name)) is not None}
        while True:
            stored = read_metadata(self._connection, self._keys).checkpoint
            at = {os.fsdecode(name): Checkpoint.from_json(raw).position for name, raw in stored.items()}
            if all(at.get(name, Position(0, 0)) >= end for name, end in ends.items()):
                return
            self._patiently("forward did not catch up")

    def await_equal(self) -> None:
        """Waits, before a switch of a mapping without cursors, until a comparison finds both sides equal."""
        while not self._agree():
            self._patiently("both sides did not come to hold the same")

    def _agree(self) -> bool:
        """Whether parity, while the switch waits, finds both sides of the mapping equal and nothing in flight."""
        self.hold(LONG_HOLD_MS)
        dial = dialler(self._shared.settings, self._shared.mapping.stream.key, may_start=False)
        check = check_of(self._shared.mapping)
        found = check(
            self._shared.mapping, self._shared.settings, dial, self._ledger, Event(), lambda *_: None, settling=0.0
        ).run()
        self.hold()
        return found.verdict == "equal" and not found.tally.in_flight

    def _patiently(self, what: str) -> None:
        self.hold()
        if time.monotonic() > self._until:
            hint = "does `bridge run --dual` run? See `bridge status`"
            raise BridgeError(f"{what} in {SWITCH_SECONDS:.0f} s", where=str(self._step), hint=hint)
        self._wait(LOOK_PAUSE)

    def _newest_born(self) -> EntryId:
        """Finds the newest Redis-born entry, for which a switch waits; the stream's last ID if none is near the end."""
        last = stream_info(self._connection, self._keys.stream).last_id
        for count, entry in enumerate(entries_back(self._connection, self._keys.stream, format_id(last))):
            if ORIGIN_FIELD not in entry.fields:
                return entry.id
            if count >= NEWEST_ENTRIES:
                return last
        return ZERO_ID

    def _whole_end(self, name: str) -> Position | None:
        """Finds where the last whole line of a file ends, up to which a switch waits for forward; None: it has none."""
        tail = self._shared.tail(name, self._ledger)
        tail.look()
        generation = tail.current()
        end = generation.size() if generation is not None else 0
        while generation is not None and end > 0:
            begin_at = max(0, end - (1 << 16))
            newline = generation.read(end - begin_at, begin_at).rfind(b"\n")
            if newline >= 0:
                return Position(generation.number, begin_at + newline + 1)
            end = begin_at
        return None

    def went_on(self, epoch: int) -> bool:
        """Waits after a switch until the component is seen to go on in the new epoch; returns whether it was."""
        until = time.monotonic() + SWITCH_SECONDS
        while time.monotonic() < until:
            _, now = self._shared.components.read(self._connection, self._step.component)
            announced = announced_positions(self._connection, self._keys)
            said = [
                announced[f"{self._step.component}/{worker.name}"]
                for worker in workers_of(announced, self._step.component, now)
            ]
            if said and all(row.get("epoch") == epoch and not row.get("paused") for row in said):
                return True
            self._wait(LOOK_PAUSE)
        return False
