"""Chooses the worker that carries a mapping's files to Redis: forward of a stream, or the copier of latest values."""

from __future__ import annotations

from collections.abc import Callable

from bridge.engine.forward import Forward
from bridge.kinds.carrier import Carrier
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.state.copier import StateCopier
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.connect import Connection


def carrier_of(
    shared: MappingContext, ledger: Ledger, troubles: Troubles, clock: Callable[[], float],
    dial: Callable[[], Connection],
) -> Carrier:  # fmt: skip
    """Makes the worker that carries a mapping's files to Redis: `StateCopier` for latest values, else `Forward`."""
    kind = StateCopier if shared.mapping.kind.latest else Forward
    return kind(shared, ledger, troubles, clock, dial)
