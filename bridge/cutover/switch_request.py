"""A switch's request to the bridge, through the ledger, before `writes` is switched: to stop carrying by the old rule.

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
    """Interface of a switch's request to the bridge: it is asked, noted by all that carry, then settled or undone."""

    def ask(self) -> None:
        """Writes the switch's request for the bridge into the ledger. Raises BridgeError: it cannot be asked."""

    def noted(self) -> bool:
        """Whether everyone that carries has noted the switch's request, and waits."""

    def said(self) -> dict[str, Any]:
        """Returns the switch's request as facts for the journal."""

    def made(self) -> None:
        """Settles the switch's request: the component is switched."""

    def undo(self) -> None:
        """Takes the switch's request back: the component is not switched."""


def asked_of(
    step: SwitchStep, token: str, shared: MappingContext, ledger: Ledger, *, both: bool
) -> SwitchRequest | None:
    """Makes the request that a switch of writes puts to the bridge; None: it needs none.

    `both`: the component goes to writing both sides, or from there.
    """
    if step.side != WRITES:
        return None
    if shared.mapping.kind.latest:
        return OwnershipRequest(step, token, shared, ledger)
    return DualWriteRequest(step, token, shared, ledger) if both else None


class OwnershipRequest:
    """A switch's request on latest values: which side owns them from now on."""

    def __init__(self, step: SwitchStep, token: str, shared: MappingContext, ledger: Ledger) -> None:
        self._step = step
        self._token = token
        self._mapping = shared.mapping
        self._stream = shared.mapping.stream.key
        self._ledger = ledger

    def ask(self) -> None:
        """Requests in the ledger that the bridge carries no latest values until the switch settles their owner.

        Raises NotYet: another switch of these values is not settled.
        """
        step = self._step
        if not states.ask_owner(self._ledger, self._stream, step.component, step.to, self._token, time.time()):
            raise NotYet("another switch of these values is not settled", where=str(step), hint="try again in a minute")

    def noted(self) -> bool:
        """Whether the bridge has noted the switch's request on who owns latest values, and waits.

        Raises NotYet: the request has lapsed.
        """
        found = states.owner_of(self._ledger, self._stream, self._mapping.source.owner)
        if found.token != self._token:
            raise NotYet("what was asked of the bridge has lapsed", where=str(self._step), hint="try again")
        return found.noted

    def said(self) -> dict[str, Any]:
        """Returns the switch's request on latest values for the journal: the side that is to own them."""
        return {"owner": self._step.to}

    def made(self) -> None:
        """Settles the switch's request: makes the new side the owner of the latest values in the ledger."""
        states.set_owner(self._ledger, self._stream, self._step.component, self._step.to, self._token)

    def undo(self) -> None:
        """Takes back the switch's request on who owns latest values."""
        states.unask_owner(self._ledger, self._token)


class DualWriteRequest:
    """A switch's request on dual write: neither direction carries a component's messages from here on, or up to here.

    The component writes these messages on both sides itself.
    """

    def __init__(self, step: SwitchStep, token: str, shared: MappingContext, ledger: Ledger) -> None:
        self._component = step.component
        self._token = token
        self._begins = step.to == BOTH
        self._shared = shared
        self._stream = shared.mapping.stream.key
        self._ledger = ledger

    def ask(self) -> None:
        """Requests in the ledger that a component's dual write begins, or ends, with the switch.

        Raises BridgeError: its roles are not declared.
        """
        if not self._begins:
            dual_writes.end(self._ledger, self._stream, self._component, self._token, time.time())
            return
        roles = self._shared.settings.components.get(self._component, frozenset())
        if not roles:
            hint = f'[components.{self._component}] roles = ["…"]'
            raise BridgeError("its roles are not declared in bridge.toml", where=self._component, hint=hint)
        dual_writes.begin(self._ledger, self._stream, self._component, roles, self._token, time.time())

    def noted(self) -> bool:
        """Whether both directions have noted the switch's request on dual write: where it begins, or ends."""
        places = [dual_writes.in_file(self._ledger, self._stream, name) for name in self._shared.source_names()]
        places += [dual_writes.in_stream(self._ledger, self._stream)] * (self._shared.mapping.mirror is not None)
        mine = [window for some in places for window in some if window.token == self._token]
        return all((window.begin if window.open else window.end) is not None for window in mine)

    def said(self) -> dict[str, Any]:
        """Returns the switch's request on dual write for the journal: from which positions it holds, or up to which."""
        rows = self._ledger.rows(
            "SELECT f.name, f.from_generation, f.from_offset, f.to_generation, f.to_offset, t.entry_from, t.entry_to"
            " FROM twofold t LEFT JOIN twofold_files f ON f.stretch = t.id WHERE t.token = ?",
            (self._token,),
        )
        files = {str(row[0]): [*(row[1:3] if self._begins else row[3:5])] for row in rows if row[0] is not None}
        entry = rows[0][5 if self._begins else 6] if rows else None
        return {"begins": self._begins, "files": files, "entry": entry}

    def made(self) -> None:
        """Settles the switch's request on dual write in the ledger: the component is switched."""
        dual_writes.made(self._ledger, self._token)

    def undo(self) -> None:
        """Takes back the switch's request on dual write in the ledger: the component is not switched."""
        dual_writes.undo(self._ledger, self._token)
