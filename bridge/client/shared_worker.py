"""What a component's logs of several streams share in one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bridge.streams.components import ComponentModes
from bridge.streams.connect import Connection


@dataclass(slots=True)
class Among:
    """What a component's log shares with its logs of other streams: worker, connection, and one thread for them all.

    `slot` are the worker's number and its lock. `modes`: from where a stream is read, and where written, that the
    component has never met.
    """

    slot: tuple[int, int]
    dial: Callable[[], Connection]
    modes: ComponentModes
