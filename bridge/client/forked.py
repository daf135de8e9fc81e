"""What becomes of a component's open logs in a forked child: they stay the parent's, and so do their file locks."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class ForkedLog(Protocol):
    """Interface of a component's open log towards a fork of its process."""

    def let_go(self) -> None:
        """Closes in a forked child the file locks that the component's log inherited."""
        ...


OPEN: WeakSet[ForkedLog] = WeakSet()
"""The logs that components of this process have open."""


def _let_go() -> None:
    """Closes in a forked child the locks of every component log, which stay the parent's alone and end with it."""
    for component_log in list(OPEN):
        component_log.let_go()


os.register_at_fork(after_in_child=_let_go)
