"""How far a component has read, in files: beside the state, so that it needs no Redis.

The first line of a bookmark is all of it; each line behind it is how far one source was read since. A line is one
write, so a kill leaves whole lines and at most one torn one, which counts for nothing.
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
from bridge.files.generation import GenerationRecord

LONGEST_BOOKMARK = 1 << 17
"""Bytes of a bookmark before it is written anew as one line."""


@dataclass(frozen=True, slots=True)
class ReadSpan:
    """Messages that begin from `start` on and before `end`, of one generation: they were read already."""

    generation: int
    start: int
    end: int

    def holds(self, at: Position) -> bool:
        """Whether a message that begins there is one of these."""
        return self.generation == at.generation and self.start <= at.offset < self.end


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """How far one source was read: its generations by what they are known, oldest first.

    Each was read up to its `at.offset`; older ones to their end. `skip`: what was read beyond that. `again`: what was
    given to the component before, and never acknowledged.
    """

    generations: tuple[GenerationRecord, ...] = ()
    skip: tuple[ReadSpan, ...] = ()
    again: tuple[ReadSpan, ...] = ()

    @property
    def position(self) -> Position | None:
        """Where the oldest generation that is not finished goes on."""
        first = next((generation for generation in self.generations if not generation.closed), None)
        return None if first is None else Position(first.number, first.at.offset)

    def has_read(self, at: Position) -> bool:
        """Whether a message that begins there was read."""
        if not self.generations or at.generation > self.generations[-1].number:
            return False
        record = next((generation for generation in self.generations if generation.number == at.generation), None)
        if record is None:
            return True
        return at.offset < record.at.offset or self.skips(at)

    def skips(self, at: Position) -> bool:
        """Whether it was read although it lies behind the place."""
        return any(span.holds(at) for span in self.skip)

    def repeats(self, at: Position) -> bool:
        """Whether it was given before."""
        return any(span.holds(at) for span in self.again)

    def to_json(self) -> dict[str, Any]:
        """For the bookmark, and for `bridge:{S}:positions`."""
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
        """The inverse. Raises ValueError."""
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
    """What a bookmark holds. `doubt` is the token of a switch that the component paused for and saw no end of.

    `entry` is the ID up to which it has read what stands in no file. A component that was never here has no places.
    """

    reads: str = "file"
    writes: str = "file"
    epoch: int = 0
    doubt: str = ""
    entry: str = "0-0"
    places: dict[str, SourcePosition] = field(default_factory=dict)
    following: bool = False
    """Whether it was following when this was written: after a kill the next message may have been given before."""
    unclean: list[str] = field(default_factory=list)
    """Files of which that is so still."""
    begun: bool = False
    """Whether it ever read, on either side."""
    retired: bool = False
    """Whether Redis said last that the mapping is retired: its files are dead."""
    aside: list[str] = field(default_factory=list)
    """IDs up to `entry` of entries that stand in no file and that it has not read."""

    def to_json(self) -> dict[str, Any]:
        """The first line."""
        places = {name: place.to_json() for name, place in self.places.items()}
        return {
            "reads": self.reads, "writes": self.writes, "epoch": self.epoch, "doubt": self.doubt, "entry": self.entry,
            "following": self.following, "unclean": self.unclean, "begun": self.begun, "aside": self.aside,
            "retired": self.retired,
            "files": places,
        }  # fmt: skip


class Bookmark:
    """Keeps in a file how far one component has read one mapping's files. Only who holds its lock may write it."""

    def __init__(self, state_dir: Path, component: str, mapping: str) -> None:
        self.path = state_dir / "components" / component / f"{mapping}.bookmark"
        self.marks = BookmarkState()
        self._lock = -1
        self._fd = -1
        self._size = 0

    def lock(self) -> bool:
        """Takes the lock of a component's bookmark, unless another process or worker has it."""
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
            replace(generation, at=at) if generation.number == number else generation
            for generation in place.generations
        )
        self.marks.places[name] = replace(place, generations=known)

    def save(self) -> None:
        """Writes a component's bookmark anew, under its name at once or not at all. Raises BridgeError."""
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
        """A source was read up to there: one write. Raises BridgeError; then nothing counts as read."""
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
        if written != len(raw):  # a torn line would hide those behind it
            self._size = LONGEST_BOOKMARK
            raise BridgeError("the disk is full", where=str(self.path), hint="make room")

    def _forget_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def close(self) -> None:
        """Gives the lock back."""
        self._forget_file()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1


def still_named(path: Path, fd: int) -> bool:
    """Whether a path leads to the file that is open as this descriptor: it was not removed before it was locked."""
    try:
        now, held = os.stat(path), os.fstat(fd)
    except OSError:
        return False
    return (now.st_dev, now.st_ino) == (held.st_dev, held.st_ino)
