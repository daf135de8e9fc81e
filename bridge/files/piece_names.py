"""Piece names: tells by its name which log a rotated piece belongs to, where nobody saw the piece come. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from bridge.files.piece_age import bare

_PART = re.compile(r"(?=[.\-_@])")
_MARK = re.compile(r"[.\-_@]+(?:\d[\dTZ:]*|[0-9a-f]{16,24}|[0-9A-Fa-f]{8,40})(?=[.\-_@]|$)")
"""What a rotation puts into a name: a number, a date's parts, a moment, a label in hexadecimal."""


class PieceNames:
    """The known logs by their names: finds the log to which a rotated piece belongs by the piece's name.

    `may_be` says whether a path would be a log's, be one there or not.
    """

    def __init__(self, may_be: Callable[[str], bool]) -> None:
        self._may_be = may_be
        self._logs: set[str] = set()
        self._by_stem: dict[str, set[str]] = {}

    def add(self, log: str) -> None:
        """Adds a log, by its path, to those to which rotated pieces may belong by their names."""
        if log not in self._logs and self._may_be(log):
            self._logs.add(log)
            name = log.rpartition("/")[2]
            for stem in {name, _stem(name)}:
                self._by_stem.setdefault(stem, set()).add(log)

    def log_of(self, piece: str) -> str | None:
        """Finds the log to which the rotated piece of this path belongs by its name; None: no name tells.

        The whole name of the log begins the piece's name, or its stem does and its suffix ends the piece's. Of several
        logs the one in the same folder counts, and of those the longest.
        """
        folder, _, name = bare(piece).rpartition("/")
        found: list[tuple[bool, int, str]] = []
        for begin in _beginnings(name):
            for log in self._by_stem.get(begin, ()):
                place, _, known = log.rpartition("/")
                suffix = known[len(_stem(known)) :]
                within = begin != known and name.endswith(suffix) and len(name) >= len(begin) + len(suffix)
                if begin == known or within:
                    found.append((place == folder, len(begin), log))
        if found:
            return max(found)[2]
        for guess in _guesses(name):
            path = f"{folder}/{guess}" if folder else guess
            if self._may_be(path):
                return path
        return None


def _stem(name: str) -> str:
    """Returns the stem of a log's or a piece's name: the name without its last suffix."""
    stem, dot, _ = name.rpartition(".")
    return stem if dot and stem else name


def _beginnings(name: str) -> Iterator[str]:
    """Yields the beginnings of a piece's name before each dot, hyphen, underscore and @, the longest first."""
    parts = _PART.split(name)
    for n in range(len(parts) - 1, 0, -1):
        if begin := "".join(parts[:n]):
            yield begin


def _guesses(name: str) -> Iterator[str]:
    """Guesses the names that a log had before a rotation made this piece's name of it, the likeliest first."""
    if (plain := _MARK.sub("", name)) != name and plain:
        yield plain
    yield from _beginnings(name)
