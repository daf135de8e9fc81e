"""Tells a component, while Redis is away, whether this machine knows that its mapping's files are still carried."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.client.bookmark import BookmarkState
from bridge.core.logger import logger
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.retired import doubt, ending_told, is_retired
from bridge.streams.components import ComponentModes
from bridge.streams.retired import Retirement


class FileVoucher:
    """Vouches, from this machine's ledger, that a mapping's files are still carried, so a component may use them.

    The end of a migration is known to Redis, and to the ledger that ended it. So only a ledger that lies where it
    carried last, and knows of no end, vouches for the files; without such a ledger a message waits on disk until Redis
    has answered.
    """

    def __init__(self, shared: MappingContext) -> None:
        self._ledger = shared.settings.state_dir / "ledger.db"
        self._kept = shared.settings.state_dir / "retired" / shared.mapping.name
        self._stream = shared.mapping.stream.key
        self._mapping = shared.mapping.name
        self._doubt = ""
        self._asked: tuple[tuple[int, int, int], ...] = ()
        """Inode, size and time of the ledger's files when it was asked last."""

    def dead(self) -> bool:
        """Whether this machine knows that the mapping is retired, so that its files are no longer carried.

        The folder that `bridge retire` wrote says so, or the ledger.
        """
        return self._kept.exists() or is_retired(self._ledger, self._stream)

    def known(self, marks: BookmarkState) -> ComponentModes:
        """Returns a component's modes by its bookmark, or as retired if its files are known to be carried no more."""
        known = ComponentModes(marks.reads, marks.writes, marks.epoch)
        return known.ended() if marks.retired or self.dead() else known

    def groups(self) -> Sequence[str]:
        """Reads from the ledger the consumer groups that the stream had when its mapping was retired, if known."""
        told = ending_told(self._ledger, self._stream)
        return Retirement.from_json(told).groups if told is not None else ()

    def alive(self) -> bool:
        """Whether the ledger vouches that a mapping's files are still carried: a component may use them without Redis.

        The ledger is asked again whenever it has changed.
        """
        if self._kept.exists():
            return False
        now = self._stamp()
        if now != self._asked:
            self._asked, before = now, self._doubt
            self._doubt = doubt(self._ledger, self._stream)
            if self._doubt and self._doubt != before:
                said = "nobody vouches that the files of %s are carried (%s): they are left alone until Redis is asked"
                logger.warning(said, self._mapping, self._doubt)
        return not self._doubt

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Reads inode, size and time of the ledger's files: a change means to ask again if files are still carried."""
        found = []
        for path in (self._ledger, self._ledger.with_name(f"{self._ledger.name}-wal"), self._ledger.with_name("place")):
            try:
                now = path.stat()
                found.append((now.st_ino, now.st_size, now.st_mtime_ns))
            except OSError:
                found.append((0, 0, 0))
        return tuple(found)
