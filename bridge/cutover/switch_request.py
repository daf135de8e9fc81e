"""What a switch of `writes` asks of whoever carries, through the ledger, before it is made.

The bridge notes that it knows, and waits; so nothing is carried by the old rule once the new one may hold.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from bridge.core.errors import BridgeError, NotYet
from bridge.cutover.gate import SwitchStep
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger import dual_writes, states
from bridge.ledger.store import Ledger
from bridge.streams.components import BOTH, WRITES


class SwitchRequest(Protocol):
    """Of one switch."""

    def ask(self) -> None:
        """Raises BridgeError: it cannot be asked."""

    def noted(self) -> bool:
        """Whether all who carry know, and wait."""

    def said(self) -> dict[str, Any]:
        """For the journal."""

    def made(self) -> None:
        """The component is switched."""

    def undo(self) -> None:
        """It is not."""


def asked_of(
    step: SwitchStep, token: str, shared: MappingContext, ledger: Ledger, *, both: bool
) -> SwitchRequest | None:
    """What this switch asks of those who carry; None: nothing. `both`: it goes to writing both sides, or from there."""
    if step.side != WRITES:
        return None
    if shared.mapping.kind.latest:
        return OwnershipRequest(step, token, shared, ledger)
    return DualWriteRequest(step, token, shared, ledger) if both else None


class OwnershipRequest:
    """Of latest values: which side's count from now on."""

    def __init__(self, step: SwitchStep, token: str, shared: MappingContext, ledger: Ledger) -> None:
        self._step = step
        self._token = token
        self._mapping = shared.mapping
        self._stream = shared.mapping.stream.key
        self._ledger = ledger

    def ask(self) -> None:
        """As the protocol says."""
        step = self._step
        if not states.ask_owner(self._ledger, self._stream, step.component, step.to, self._token, time.time()):
            raise NotYet("another switch of these values is not settled", where=str(step), hint="try again in a minute")

    def noted(self) -> bool:
        """As the protocol says."""
        found = states.owner_of(self._ledger, self._stream, self._mapping.source.owner)
        if found.token != self._token:
            raise NotYet("what was asked of the bridge has lapsed", where=str(self._step), hint="try again")
        return found.noted

    def said(self) -> dict[str, Any]:
        """As the protocol says."""
        return {"owner": self._step.to}

    def made(self) -> None:
        """As the protocol says."""
        states.set_owner(self._ledger, self._stream, self._step.component, self._step.to, self._token)

    def undo(self) -> None:
        """As the protocol says."""
        states.unask_owner(self._ledger, self._token)


class DualWriteRequest:
    """That what a component writes on both sides itself is carried in neither direction from here on, or up to here."""

    def __init__(self, step: SwitchStep, token: str, shared: MappingContext, ledger: Ledger) -> None:
        self._component = step.component
        self._token = token
        self._begins = step.to == BOTH
        self._shared = shared
        self._stream = shared.mapping.stream.key
        self._ledger = ledger

    def ask(self) -> None:
        """As the protocol says."""
        if not self._begins:
            dual_writes.end(self._ledger, self._stream, self._component, self._token, time.time())
            return
        roles = self._shared.settings.components.get(self._component, frozenset())
        if not roles:
            hint = f'[components.{self._component}] roles = ["…"]'
            raise BridgeError("its roles are not declared in bridge.toml", where=self._component, hint=hint)
        dual_writes.begin(self._ledger, self._stream, self._component, roles, self._token, time.time())

    def noted(self) -> bool:
        """As the protocol says."""
        places = [dual_writes.in_file(self._ledger, self._stream, name) for name in self._shared.source_names()]
        places += [dual_writes.in_stream(self._ledger, self._stream)] * (self._shared.mapping.mirror is not None)
        mine = [window for some in places for window in some if window.token == self._token]
        return all((window.begin if window.open else window.end) is not None for window in mine)

    def said(self) -> dict[str, Any]:
        """As the protocol says: from where on, or up to where."""
        rows = self._ledger.rows(
            "SELECT f.name, f.from_generation, f.from_offset, f.to_generation, f.to_offset, t.entry_from, t.entry_to"
            " FROM twofold t LEFT JOIN twofold_files f ON f.stretch = t.id WHERE t.token = ?",
            (self._token,),
        )
        files = {str(row[0]): [*(row[1:3] if self._begins else row[3:5])] for row in rows if row[0] is not None}
        entry = rows[0][5 if self._begins else 6] if rows else None
        return {"begins": self._begins, "files": files, "entry": entry}

    def made(self) -> None:
        """As the protocol says."""
        dual_writes.made(self._ledger, self._token)

    def undo(self) -> None:
        """As the protocol says."""
        dual_writes.undo(self._ledger, self._token)
