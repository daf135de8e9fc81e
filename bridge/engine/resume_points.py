"""Resume points of forward's sources: where each goes on after the comparison with the stream (DESIGN §6.1)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

from bridge.core.errors import SourceError, as_bridge_error
from bridge.core.logger import logger
from bridge.engine.discovery import SourceDiscovery
from bridge.engine.scheduler import Scheduler
from bridge.engine.sender import Sender
from bridge.kinds.kind import Source, SourceBatch
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.resume import Reconciliation, Resume
from bridge.ledger.sources import SourceMemory
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection


class ResumePoints:
    """Puts the sources of one mapping at their resume points, and adds their names to `placed` and `moved`."""

    def __init__(
        self, shared: MappingContext, ledger: Ledger, discovery: SourceDiscovery, placed: set[str], moved: set[str],
        scheduler: Scheduler,
    ) -> None:  # fmt: skip
        self._shared = shared
        self._ledger = ledger
        self._discovery = discovery
        self._placed = placed
        self._moved = moved
        self._scheduler = scheduler
        self.put_once: set[str] = set()
        """The names of the sources put at their resume points since forward compared last, also if they failed."""
        self._taken: set[int] = set()

    def begin(self, compared: Reconciliation, remembered: dict[str, SourceMemory]) -> None:
        """Begins the resume points of a comparison: forgets the sources placed before, and learns the numbers taken."""
        self.put_once.clear()
        self._taken = {*(memory.number for memory in remembered.values()), *map(int, compared.books.sources.values())}

    def put(
        self, sources: Iterable[Source], compared: Reconciliation, remembered: dict[str, SourceMemory],
        connection: Connection, sender: Sender,
    ) -> None:  # fmt: skip
        """Puts each source at its resume point if its files can be read; a source that fails does not stop the others.

        Raises Conflict, RedisLost, RedisRefused, LedgerError.
        """
        named, batches = list[bytes | int](), list[SourceBatch]()
        for source in sources:
            memory, name = remembered.get(source.name), os.fsencode(source.name)
            number = memory.number if memory is not None else compared.books.number_for(name, self._taken)
            try:
                batch = self._resume(source, compared, memory, number)
            except (SourceError, OSError) as error:  # the others go on; this one follows when it can be read
                self._placed.discard(source.name)
                self._discovery.fails(source, as_bridge_error(error))
                continue
            self._taken.add(number)
            if name not in compared.books.sources:
                compared.books.sources[name] = b"%d" % number
                named += [name, number]
            batches += [batch] if batch is not None else []
        for at in range(0, len(named), 1000):
            connection.call("HSET", self._shared.keys.sources, *named[at : at + 1000])
        for batch in batches:
            sender.set(batch)

    def _resume(
        self, source: Source, compared: Reconciliation, memory: SourceMemory | None, number: int
    ) -> SourceBatch | None:
        """Puts a source at its resume point; returns a batch to tell Redis, if the checkpoint there is another one.

        A source of which nothing is remembered gets `number`.
        """
        name = os.fsencode(source.name)
        books = compared.books
        fresh = memory is None
        progress = source.progress
        memory = memory or progress.begin(number, source.files.end())
        if compared.lost and memory.live and memory.history is not None:
            memory = replace(memory, live=False)  # history that is sent again keeps its times if it can
        resume = compared.resume.get(source.name, Resume())
        progress.memory = memory = replace(memory, refill=resume.refill)
        progress.standing = compared.offsets if resume.refill is not None else {}
        progress.stored = books.checkpoint.get(name)
        source.resume(resume, compared)
        self._discovery.say(source)
        reader = source.position()
        if reader is None:
            return None
        self._placed.add(source.name)
        self.put_once.add(source.name)
        self._moved.add(source.name)
        self._scheduler.add(source)  # what it had read and was not sent comes again
        logger.debug("%s: goes on in generation %d at byte %d", source.name, *reader[0])
        stored = checkpoint.position if (checkpoint := progress.checkpoint) is not None else None
        return source.cursor_batch() if reader[0] != stored and not (fresh and stored is None) else None
