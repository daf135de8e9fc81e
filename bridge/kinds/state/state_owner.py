"""Tracks which side owns a mapping's states, by the ledger, and by the modes of the component that writes them."""

from __future__ import annotations

from collections.abc import Callable

from bridge.core.errors import BridgeError, NotYet, SourceError
from bridge.core.mapping import Mapping
from bridge.ledger.states import StateOwner, note_asked, owner_of
from bridge.ledger.store import Ledger
from bridge.streams.components import ComponentHash
from bridge.streams.connect import Connection

OWNER_SECONDS = 1.0
"""Seconds between two looks at the side to which Redis tells the states' component to write."""

SIDE_NAMES = {"file": "the files", "redis": "Redis", "both": "both sides"}


class StateOwnership:
    """The ownership of one mapping's states: `now` is the owner at the last look, `lost` an error, if any.

    `lost` says that Redis has lost what it told the component. Nothing may be carried while `now.asked`, or `lost` is
    set: a value would be replaced by an older one.
    """

    def __init__(self, ledger: Ledger, mapping: Mapping, components: ComponentHash, clock: Callable[[], float]) -> None:
        self.now = StateOwner(mapping.source.owner)
        self.lost: SourceError | None = None
        self._ledger = ledger
        self._mapping = mapping
        self._components = components
        self._clock = clock
        self._due = 0.0

    @property
    def by_file(self) -> bool:
        """Whether the file side owns the states, so that files are carried to Redis."""
        return self.now.side == "file"

    @property
    def trouble(self) -> BridgeError | None:
        """The error that keeps states from being carried; None: one side owns them at this moment."""
        if not self.now.asked:
            return self.lost
        hint = "wait for the switch: a running bridge makes it or takes it back, and so does `bridge cutover`"
        return NotYet("another side is to own it", where=self._mapping.name, hint=hint)

    def look(self, connection: Connection, before_it_moves: Callable[[], None]) -> StateOwner:
        """Reads the owner of the states from the ledger, and notes there a switch as known; returns the owner before.

        `before_it_moves` is called before that note. Raises RedisLost, RedisRefused, LedgerError, BridgeError: what
        Redis says of the component is nonsense.
        """
        before = self.now
        self.now = owner_of(self._ledger, self._mapping.stream.key, self._mapping.source.owner)
        if self.now.asked and not self.now.noted:
            before_it_moves()
            note_asked(self._ledger, self._mapping.stream.key, self.now.token)
        if self.now.asked or not self.now.component:
            self.lost = None
        elif self._clock() >= self._due:
            self._due = self._clock() + OWNER_SECONDS
            self.lost = self._contradiction(connection)
        return before

    def _contradiction(self, connection: Connection) -> SourceError | None:
        component, name = self.now.component, self._mapping.name
        modes, _ = self._components.read(connection, component)
        if modes.switch is not None or modes.writes == self.now.side:
            return None
        there, here = SIDE_NAMES[modes.writes], SIDE_NAMES[self.now.side]
        said = f"{component} writes to {there} by what Redis says, and {here} own it"
        hint = f"`bridge cutover {component} --mapping {name} --writes`, or `rollback`: the plan says what counts then"
        return SourceError(said, where=name, hint=hint)
