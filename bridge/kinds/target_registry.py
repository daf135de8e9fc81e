"""Holds the targets of one mirror: the log files that lines are appended to, or a folder for new files."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bridge.core.codecs import Codec
from bridge.core.logger import logger
from bridge.core.mapping_sections import MirrorSection
from bridge.kinds.log.target import LogTarget
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.spool.target import NewFileTarget, NewFileTargets
from bridge.kinds.target import PendingWrite, Target
from bridge.ledger.ranges import Intent, WrittenEntry
from bridge.ledger.store import Ledger


class Targets:
    """The targets of one mapping's mirror: the files that it writes to.

    For each name a file that lines are appended to; or for each message a new file in a folder.
    """

    def __init__(self, shared: MappingContext, ledger: Ledger, section: MirrorSection) -> None:
        self._shared = shared
        self._ledger = ledger
        self._section = section
        self._targets: dict[str, LogTarget] = {}
        self._deliveries = NewFileTargets(shared.mapping, shared.settings) if shared.folder is not None else None

    def of(self, write: PendingWrite) -> Target:
        """Returns the target of a pending write of the mirror, and looks it up the first time."""
        if write.to is None:
            write.to = self.made(write.name, write.content, write.entries)
        return write.to

    def made(self, name: str, content: bytes, entries: list[WrittenEntry], number: int = 0) -> Target:
        """Returns, of the mirror's targets, the file of this name, or the new file that this content becomes.

        `number` tells which new file an earlier process was making; 0: this process makes it.
        """
        if self._deliveries is not None:
            return NewFileTarget(self._deliveries, name, content, entries[0][0], number)
        if name not in self._targets:
            tail, stream = self._shared.tail(name, self._ledger), self._shared.mapping.stream.key
            root, catalog = self._shared.settings.root, self._shared.catalog
            self._targets[name] = LogTarget(root, tail, self._section, stream, catalog)
        return self._targets[name]

    def resolved(self, intents: Iterable[Intent], codec: Codec, settle: Callable[[], object]) -> list[PendingWrite]:
        """Finds out, at the mirror's targets, how much of each intent an earlier process wrote; the log tells it.

        Returns the pending writes. `settle` waits until another program would have gone on with a line that seems ours
        and is unfinished.
        """
        writes, told = list[PendingWrite](), dict[str, list[str]]()
        for intent in intents:
            target = self.made(intent.name, intent.content, intent.entries, intent.generation)
            write, said = target.resolve(intent, codec)
            while 0 < write.done < len(write.content):
                settle()
                before, (write, said) = write.pieces, target.resolve(intent, codec)
                if write.pieces == before:
                    break
            told.setdefault(said, []).append(intent.name)
            write.to = target
            writes.append(write)
        for said, names in told.items():
            more = f" and {len(names) - 1} more" if names[1:] else ""
            logger.warning("%s%s: %s", names[0], more, said, extra={"facts": {"targets": names}})
        return writes

    def forget_books(self) -> None:
        """Closes the mirror's targets after the ledger was rebuilt: their generations are read again."""
        for target in self._targets.values():
            target.close()
        self._targets.clear()

    def close(self) -> None:
        """Closes all the mirror's targets: every file and folder that the mirror writes to."""
        self.forget_books()
        if self._deliveries is not None:
            self._deliveries.close()
