"""Declares the carrier that brings a mapping's files to Redis, whatever their kind: runs and imports drive it.

`bridge.engine.forward.Forward` carries messages, `bridge.kinds.state.copier.StateCopier` latest values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from bridge.core.errors import BridgeError, NotYet, RedisLost, RedisRefused, as_bridge_error
from bridge.core.logger import logger
from bridge.core.model import EntryId
from bridge.kinds.direction_stats import DirectionStats
from bridge.kinds.kind import Source
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.state.value_files import ValueFile
from bridge.streams.connect import Connection
from bridge.streams.writer import Conflict


class Carrier(ABC):
    """The carrier of one mapping's files to Redis. Used by one thread.

    `attach` connects, `step` carries a batch; after any error from either, `detach` and attach again. `batch` is the
    most entries in one transaction, `span` the first and last ID of the entries that were sent.
    """

    batch = 1
    span: tuple[EntryId, EntryId] | None = None

    def __init__(self, shared: MappingContext) -> None:
        self.shared = shared
        self.worker = f"forward {shared.mapping.name}"
        self._connection: Connection | None = None

    @property
    def aged(self) -> bool:
        """Whether the password of the carrier's connection ends soon: it attaches anew between two batches."""
        return self._connection is not None and self._connection.aged

    def leave_replaced(self) -> None:
        """Ends, from another thread, what the carrier waits for from a master that was replaced by an election."""
        if (connection := self._connection) is not None and connection.replaced():
            connection.interrupt()

    @abstractmethod
    def look(self, paths: set[str] | None = None) -> None:
        """Has the carrier look at the sources of changed files, new sources too; None: at all files of the mapping."""

    @property
    @abstractmethod
    def attached(self) -> bool:
        """Whether the carrier is connected to Redis, so that `step` may be called."""

    @abstractmethod
    def attach(self) -> None:
        """Connects the carrier to Redis and claims the stream.

        Raises RedisLost, RedisRefused, NotOwner, LedgerError.
        """

    @abstractmethod
    def detach(self) -> None:
        """Closes the carrier's connection to Redis, and drops what is under way; `attach` makes another."""

    @abstractmethod
    def release(self) -> None:
        """Releases the carrier's lease on the stream; only while attached. Raises RedisLost, RedisRefused."""

    def let_go(self, *, flush: bool = False) -> None:
        """Releases the carrier's lease, so that others need not wait until it runs out, and detaches the carrier.

        `flush` as the method of this name, before that.
        """
        try:
            if self.attached:
                if flush:
                    self.flush()
                self.release()
        except (Conflict, BridgeError, OSError) as error:
            logger.debug("%s: the lease stays until it runs out: %s", self.worker, error)
        self.detach()

    @abstractmethod
    def step(self) -> bool:
        """Carries the next batch of a mapping's messages to Redis; False: there is none.

        Raises Conflict, RedisLost, RedisRefused, LedgerError: then detach and attach.
        """

    @abstractmethod
    def rest(self) -> float:
        """Returns the seconds until the carrier has something to do without a wake-up."""

    @property
    @abstractmethod
    def waits(self) -> bool:
        """Whether the carrier must `step` again soon, as a source's last message or file is not complete."""

    def flush(self) -> bool:
        """Moves the carrier's cursors at once over bytes that make no entries; False: there was no cursor to move."""
        return False

    def tell(self, wait: Callable[[float], object]) -> None:
        """Waits, with `wait`, for what the carrier still has to tell Redis besides the messages. Raises as `step`."""
        return

    def take_as_history(self) -> None:
        """Has the carrier take all that is now in the files as history, with the messages' own times as entry IDs."""
        return

    @property
    @abstractmethod
    def sources(self) -> Sequence[Source | ValueFile]:
        """All sources of the mapping that the carrier knows, or value files, by name."""

    @property
    def resting(self) -> Mapping[str, int]:
        """The sources that are carried whole, so the carrier need not look at them, each with its bytes on disk."""
        return {}

    @abstractmethod
    def failures(self) -> list[BridgeError]:
        """Returns the errors that keep the carrier from carrying the mapping's sources to their end."""

    @property
    @abstractmethod
    def carried(self) -> int:
        """How many messages the carrier has brought over."""

    def counts(self) -> dict[str, int]:
        """Returns how many entries the carrier made of each source, by the name the source has in `troubles`."""
        return {f"{self.worker}: {source.name}": source.counts.entries for source in self.sources}

    @abstractmethod
    def measure(self) -> DirectionStats:
        """Brings the statistics of the carrier's direction up to date, and returns them. May be asked by any thread."""


def may_pass(error: Exception, *, reached: bool) -> bool:
    """Whether what failed is to be tried again, as the error may pass: a lease, a loading server, a lost connection.

    `reached`: Redis was there before; a server that never answered is not waited for.
    """
    if isinstance(error, RedisRefused):
        return error.code == "LOADING"
    return isinstance(error, Conflict | NotYet) or (isinstance(error, RedisLost) and reached)


def as_stayed(error: Conflict | BridgeError | OSError) -> BridgeError:
    """Makes the error to report of one that did not pass: another client that keeps moving the checkpoint is named."""
    if isinstance(error, Conflict):
        return RedisRefused("another client keeps moving the checkpoint", code="OVERTAKEN")
    return as_bridge_error(error)
