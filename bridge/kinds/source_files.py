"""Declares the files of a source of any kind, as discovery looks at them: what changed, and how much is left to carry.

`bridge.kinds.kind.Source` makes the batches out of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from bridge.core.errors import SourceError
from bridge.core.model import Position
from bridge.ledger.ranges import Range


class SourceLag(NamedTuple):
    """The lag of one source, in bytes: how much of its files is still to be carried, and how much cannot be yet.

    `left` are the bytes on disk that forward has still to read, `on_disk` those of all its known files, as far as that
    is known, `unfinished` those at the end that are no whole message.
    """

    left: int
    on_disk: int
    unfinished: int


class SourceFiles(ABC):
    """The files of a source of any kind, as discovery looks at them. Not thread-safe."""

    unreadable: SourceError | None = None
    """The error of a file of the source that could not be read at the last look; None: all files could be read.

    The source's other files go on.
    """

    @abstractmethod
    def look(self, paths: set[str] | None) -> bool:
        """Looks for changes in the files of a source of any kind; with `paths`, only if one of them is the source's.

        False: it did not look. Raises SourceError, LedgerError.
        """

    @abstractmethod
    def take_news(self) -> list[str]:
        """Writes into the ledger what a source of any kind found in its files; returns notices for the log, once."""

    @property
    def is_new(self) -> bool:
        """Whether no generation of a source of any kind is known, as nobody has looked at its file yet."""
        return False

    @property
    def present(self) -> bool:
        """Whether a source of any kind has anything that could be carried; a folder always does, or its place."""
        return True

    @property
    def restless(self) -> bool:
        """Whether a source of any kind must be looked at in each sweep, although none of its files changed."""
        return True

    def skipped(self) -> list[tuple[str, int, int]]:
        """Returns, once, the stretches of files that a source's cursor passed unread: path, start and end."""
        return []

    @abstractmethod
    def end(self) -> Position | None:
        """Returns the position at which the present content of a source of any kind ends; None: there is no content."""

    @property
    @abstractmethod
    def settling(self) -> int:
        """How many messages of a source of any kind are not due yet, as they are incomplete; rather too many.

        May be asked by any thread.
        """

    @abstractmethod
    def lag(self) -> SourceLag:
        """Measures how much of a source's files is still to be carried."""

    @abstractmethod
    def content_of(self, span: Range) -> bytes:
        """Reads from the files of a source of any kind the bytes of a mirror's range; empty when they are gone."""
