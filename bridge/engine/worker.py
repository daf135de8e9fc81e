"""Chooses the worker that carries a mapping's files to Redis: forward of a stream, or the copier of latest values."""

from __future__ import annotations

from collections.abc import Callable

from bridge.core.errors import BridgeError
from bridge.core.logger import logger
from bridge.engine.forward import Forward
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.state.copier import StateCopier
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.connect import Connection
from bridge.streams.writer import Conflict

Carrier = Forward | StateCopier


def carrier_of(
    shared: MappingContext,
    ledger: Ledger,
    troubles: Troubles,
    clock: Callable[[], float],
    dial: Callable[[], Connection],
) -> Carrier:
    """Makes the worker that carries a mapping's files to Redis: `StateCopier` for latest values, else `Forward`."""
    kind = StateCopier if shared.mapping.kind.latest else Forward
    return kind(shared, ledger, troubles, clock, dial)


def let_go(forward: Carrier) -> None:
    """Releases the lease of a worker on its stream, and closes the worker's connection to Redis.

    So another state directory need not wait for the lease to run out.
    """
    try:
        if forward.attached:
            forward.release()
    except (Conflict, BridgeError, OSError) as error:
        logger.debug("%s: the lease stays until it runs out: %s", forward.worker, error)
    forward.detach()
