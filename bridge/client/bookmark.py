"""A component's bookmark: a local file that keeps how far the component has read each source, without Redis.

The first line of a bookmark is a complete snapshot; each later line moves the position in one source. A line is one
write, so a kill leaves whole lines and at most one torn line, which is ignored.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bridge.core.errors import BridgeError
from bridge.core.model import Fingerprint, Position
from bridge.files.generation_record import GenerationRecord

LONGEST_BOOKMARK = 1 << 17
"""Bytes that a bookmark may hold before it is rewritten as one line."""


@dataclass(frozen=True, slots=True)
class ReadSpan:
    """A span in a bookmark: the messages of one generation that begin at byte `start` or later and before `end`.

    A component has read these messages already, or was given them, as the list says in which the span stands.
    """

    generation: int
    start: int
    end: int

    def holds(self, at: Position) -> bool:
        """Whether the message that begins at a position lies in the bookmark's span."""
        return self.generation == at.generation and self.start <= at.offset < self.end


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """How far a component has read one source, as its bookmark keeps it: a record per generation, oldest first.

    Each recorded generation was read up to its `at.offset`, and older generations to their end. `skip`: spans that were
    read beyond that offset. `again`: spans that were given to the component before, and never acknowledged.
    """

    generations: tuple[GenerationRecord, ...] = ()
    skip: tuple[ReadSpan, ...] = ()
    again: tuple[ReadSpan, ...] = ()

    @property
    def position(self) -> Position | None:
        """Where the component reads on in a source, by its bookmark: in the oldest unfinished generation.

        None where all generations are finished.
        """
        first = next((generation for generation in self.generations if not generation.closed), None)
        return None if first is None else Position(first.number, first.at.offset)

    @property
    def is_moved(self) -> bool:
        """Whether the component has read anything of a source, or passed over it, by its bookmark."""
        return any(generation.closed or generation.at.offset for generation in self.generations)

    def has_read(self, at: Position) -> bool:
        """Whether the component has read the message that begins at a position of a source, by its bookmark."""
        if not self.generations or at.generation > self.generations[-1].number:
            return False
        record = next((generation for generation in self.generations if generation.number == at.generation), None)
        if record is None:
            return True
        return at.offset < record.at.offset or self.skips(at)

    def skips(self, at: Position) -> bool:
        """Whether the bookmark lists the message at a position as read ahead of the place where reading goes on."""
        return any(span.holds(at) for span in self.skip)

    def repeats(self, at: Position) -> bool:
        """Whether the bookmark lists the message at a position as given before and never acknowledged."""
        return any(span.holds(at) for span in self.again)

    def to_json(self) -> dict[str, Any]:
        """Makes the JSON of a source's position for the bookmark and for the Redis hash `bridge:{S}:positions`."""
        return {
            "generations": [
                [
                    generation.number,
                    generation.device,
                    generation.inode,
                    generation.closed,
                    generation.at.offset,
                    generation.at.head_len,
                    generation.at.head,
                    generation.at.tail,
                ]
                for generation in self.generations
            ],
            "skip": [[span.generation, span.start, span.end] for span in self.skip],
            "again": [[span.generation, span.start, span.end] for span in self.again],
        }

    @classmethod
    def from_json(cls, said: Any) -> SourcePosition:
        """Parses a source's position from the JSON of a bookmark or of `bridge:{S}:positions`. Raises ValueError."""
        try:
            known, *spans = said["generations"], said["skip"], said["again"]
            return cls(
                tuple(
                    GenerationRecord(
                        int(n),
                        int(device),
                        int(inode),
                        Fingerprint(int(o), int(length), str(head), str(tail)),
                        bool(closed),
                    )
                    for n, device, inode, closed, o, length, head, tail in known
                ),
                *(tuple(ReadSpan(int(n), int(start), int(end)) for n, start, end in some) for some in spans),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no place in a source: {error}") from None


@dataclass(slots=True)
class BookmarkState:
    """All that a component's bookmark holds: which sides it reads and writes, the epoch, a place for each source.

    `doubt` is the token of a switch that the component paused for and saw no end of. `entry` is the ID up to which the
    component has read the entries that stand in no file. A component that was never here has no places.
    """

    reads: str = "file"
    writes: str = "file"
    epoch: int = 0
    doubt: str = ""
    entry: str = "0-0"
    places: dict[str, SourcePosition] = field(default_factory=dict)
    following: bool = False
    """Whether the component was following at the last write: if it was killed, the next message may be a repetition."""
    unclean: list[str] = field(default_factory=list)
    """Files whose next message may have been given before a kill, and was not acknowledged since."""
    begun: bool = False
    """Whether the component ever read, on either side."""
    retired: bool = False
    """Whether Redis said last that the mapping is retired, so that its files are dead."""
    aside: list[str] = field(default_factory=list)
    """IDs up to `entry` of entries that stand in no file and that the component has not read."""

    def to_json(self) -> dict[str, Any]:
        """Makes the JSON object that is the first line of a component's bookmark."""
        places = {name: place.to_json() for name, place in self.places.items()}
        return {
            "reads": self.reads, "writes": self.writes, "epoch": self.epoch, "doubt": self.doubt, "entry": self.entry,
            "following": self.following, "unclean": self.unclean, "begun": self.begun, "aside": self.aside,
            "retired": self.retired,
            "files": places,
        }  # fmt: skip


class Bookmark:
    """Keeps in a local file, the bookmark, how far one component has read one mapping's files.

    Only the holder of the bookmark's lock may write it.
    """

    def __init__(self, state_dir: Path, component: str, mapping: str) -> None:
        self.component = component
        self.path = state_dir / "components" / component / f"{mapping}.bookmark"
        self.marks = BookmarkState()
        self._lock = -1
        self._fd = -1
        self._size = 0

    def lock(self) -> bool:
        """Locks a component's bookmark and returns True, unless another process or worker has the lock."""
        if self._lock >= 0:
            return True
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        held = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(held)
            return False
        if not still_named(self.path.with_suffix(".lock"), held):
            os.close(held)
            return False
        self._lock = held
        return True

    @property
    def locked(self) -> bool:
        """Whether this object holds the lock of the component's bookmark."""
        return self._lock >= 0

    def load(self) -> BookmarkState:
        """Reads a component's bookmark. Raises BridgeError for a file that is no bookmark."""
        try:
            first, *lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            self.marks = BookmarkState()
            return self.marks
        except OSError as error:
            raise BridgeError(f"cannot be read: {error.strerror}", where=str(self.path)) from None
        try:
            said = json.loads(first)
            places = {str(name): SourcePosition.from_json(place) for name, place in said["files"].items()}
            self.marks = BookmarkState(
                str(said["reads"]), str(said["writes"]), int(said["epoch"]), str(said["doubt"]), str(said["entry"]),
                places, bool(said["following"]), [str(value) for value in said.get("unclean", ())],
                bool(said.get("begun", True)), bool(said.get("retired", False)),
                [str(entry) for entry in said.get("aside", ())],
            )  # fmt: skip
            for line in lines[:-1]:
                name, number, offset, length, head, tail = json.loads(line)
                self._moved(name, number, Fingerprint(offset, length, head, tail))
        except (ValueError, KeyError, TypeError) as error:
            hint = "move it aside (keep it): the component then begins as one that was never here"
            raise BridgeError(f"is no bookmark: {error}", where=str(self.path), hint=hint) from None
        return self.marks

    def _moved(self, name: str, number: int, at: Fingerprint) -> None:
        place = self.marks.places[name]
        known = tuple(
            generation.at_place(at) if generation.number == number else generation for generation in place.generations
        )
        self.marks.places[name] = replace(place, generations=known)

    def save(self) -> None:
        """Rewrites a component's bookmark atomically, by renaming a new file over it. Raises BridgeError."""
        raw = json.dumps(self.marks.to_json()).encode() + b"\n"
        hidden, fd = self.path.with_suffix(".new"), -1
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            if os.write(fd, raw) != len(raw):
                raise OSError(errno.ENOSPC, "the disk is full")
            os.fsync(fd)
            hidden.rename(self.path)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise BridgeError(f"cannot be written: {error.strerror}", where=str(self.path)) from None
        self._forget_file()
        self._fd, self._size = fd, len(raw)

    def note(self, name: str, number: int, at: Fingerprint) -> None:
        """Appends to the bookmark, in one write, that a source's generation was read up to the fingerprint `at`.

        A bookmark that has grown too long, or is not open for writing, is rewritten instead. Raises BridgeError: the
        new position is not on disk.
        """
        raw = json.dumps([name, number, at.offset, at.head_len, at.head, at.tail]).encode() + b"\n"
        self._moved(name, number, at)
        if self._fd < 0 or self._size + len(raw) > LONGEST_BOOKMARK:
            self.save()
            return
        try:
            written = os.write(self._fd, raw)
        except OSError as error:
            raise BridgeError(f"cannot be written: {error.strerror}", where=str(self.path)) from None
        self._size += written
        if written != len(raw):  # a torn line would hide the lines after it
            self._size = LONGEST_BOOKMARK
            raise BridgeError("the disk is full", where=str(self.path), hint="make room")

    def _forget_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def close(self) -> None:
        """Closes the bookmark's file and gives its lock back."""
        self._forget_file()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1


def still_named(path: Path, fd: int) -> bool:
    """Whether a path still leads to the open file of a descriptor, such as a bookmark's lock: it was not removed.

    A file that was removed before it was locked would give a lock that nobody else sees.
    """
    try:
        now, held = os.stat(path), os.fstat(fd)
    except OSError:
        return False
    return (now.st_dev, now.st_ino) == (held.st_dev, held.st_ino)
