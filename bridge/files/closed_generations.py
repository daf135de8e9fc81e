"""Closed generations of a source: they were carried to their end, but their files may still grow.

A program that keeps its descriptor writes on to a file that was renamed long ago.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bridge.core.errors import SourceError
from bridge.files.folder_listing import stat_of
from bridge.files.generation import Generation, open_regular
from bridge.files.generation_index import GenerationIndex
from bridge.files.generation_record import UNREAD, GenerationRecord
from bridge.files.source_paths import PathsProvider

KEPT_LATE = 4
"""How many closed generations of a source stay open, so that what is written to a deleted file is seen as well."""


class ClosedGenerations:
    """The closed generations of one source: carried to their end, while their files may still grow.

    `held` are those whose files are open.
    """

    def __init__(self, survey: PathsProvider, register: GenerationIndex) -> None:
        self.held: list[Generation] = []
        self._survey = survey
        self._register = register
        self._lying: dict[int, Path] = {}
        """The paths of closed generations that are not packed, by number."""
        self._strangers: set[tuple[int, int, int, int]] = set()
        """Pieces that were looked into and stay unexplained: device, inode, size and mtime in ns of each."""
        self._marks: tuple[int, ...] | None = None

    def add(self, done: Generation) -> None:
        """Adds a generation that was carried to its end to the closed ones; closes the oldest files over the limit."""
        self.held.append(done)
        self._marks = None
        while len(self.held) > KEPT_LATE:
            self.held.pop(0).close()

    def note_read(self) -> bool:
        """Notes in the index how far open, closed generations were read; to be called while no line is on its way.

        What was read since and was not sent is not to be read again: the mirror's lines, and what is in quarantine.
        Returns whether there was any.
        """
        before = len(self._register.news)
        for generation in [generation for generation in self.held if generation.content is not None]:
            if generation.read_to > self._register.known[generation.number].at.offset:
                ended = generation.known(closed=True)
                self._register.amend(generation.number, ended.at, ended.packed)
        return len(self._register.news) > before

    def drop_replaced(self) -> None:
        """Closes the files of closed generations that hold another content by now, copied over them in place.

        The file may be another generation. Raises SourceError.
        """
        for generation in [generation for generation in self.held if generation.changed() is not None]:
            self.held.remove(generation)
            generation.close()

    def reopen_packed(self, chain: list[Generation], say_once: Callable[[str, str], None] | None = None) -> None:
        """Opens the closed generations whose compressed files hold more than was carried, to go on where they ended.

        Such a file was damaged and is whole now, or its writer went on until it was compressed. `chain` are the
        generations that are read. Where `say_once` is given, says of a file that was never carried and is no newer that
        it is left alone. Raises SourceError.
        """
        rotated, fresh = self._survey.take()
        opened, register = [*self.held, *chain], self._register
        numbers = {generation.identity: generation.number for generation in opened}
        matched = register.match(rotated)
        files = self._survey.in_age_order(rotated, register.seen(rotated, opened, matched)) + ([fresh] if fresh else [])
        matched |= register.match_continued(files, matched, numbers)
        for file in files:
            record = matched.get(file)
            if record is None:
                unknown = file is not fresh and file.identity not in numbers
                if say_once is not None and unknown and file.read(1, 0):
                    say_once(file.path.name, "was never carried, and is no newer than what was; it is left alone")
            elif record.packed == UNREAD and record.number not in numbers.values() and file.place(record.at):
                file.becomes(record)
                self.held.append(file)
                continue
            file.close()

    def watch(self, chain: list[Generation], inodes: set[tuple[int, int]]) -> None:
        """Opens the closed generations whose files have grown, however many rotations ago; but none of `chain`.

        `chain` are the generations that are read. `inodes` are those of all files that are open: a file that is one
        generation is no other, even if its inode was reused.

        A file that holds what was carried and more is the generation, wherever it lies; none is held open for that:
        each is looked at. Raises SourceError.
        """
        self.held = [generation for generation in self.held if generation.content is not None]
        for generation in [generation for generation in self.held[:-KEPT_LATE] if not generation.grown()]:
            self.held.remove(generation)
            generation.close()
        marks = self._survey.marks()
        if marks != self._marks or 0 in marks:
            if (strangers := self._find(inodes)) - self._strangers:
                self.reopen_packed(chain)
            self._strangers, self._marks = strangers, marks
        opened = {generation.number for generation in (*chain, *self.held)}
        failed: SourceError | None = None
        for number, path in [*self._lying.items()]:
            record = self._register.known[number]
            if number in opened or (record.device, record.inode) in inodes:
                continue
            try:
                now = stat_of(path)
            except SourceError as error:
                failed = error
                continue
            if now is None or (now.st_dev, now.st_ino) != (record.device, record.inode):  # the folder changed as well
                self._marks = None
            elif now.st_size > record.at.offset:
                self._open(record, path)
        if failed is not None:  # once all others were looked at: this one may have grown
            raise failed

    def _find(self, inodes: set[tuple[int, int]]) -> set[tuple[int, int, int, int]]:
        """Notes which rotated pieces are closed generations that may grow; finds those that no record explains.

        Returns device, inode, size and mtime in ns of each; not of those that are open, by their `inodes`. A packed
        piece that was carried whole does not grow, as nobody writes to it.
        """
        lying, records = self._survey.rotated_names(), [*self._register.known.values()]
        ended = {(known.device, known.inode): known.number for known in records if known.closed and not known.packed}
        explained = {(known.device, known.inode) for known in records if known.packed != UNREAD} | inodes
        self._lying = {ended[identity]: path for identity, path in lying.items() if identity in ended}
        return {
            (*identity, now.st_size, now.st_mtime_ns) for identity, path in lying.items()
            if identity not in explained and (now := stat_of(path)) is not None
        }  # fmt: skip

    def _open(self, record: GenerationRecord, path: Path) -> None:
        file = open_regular(path)
        if file is None:
            return
        if file.identity == (record.device, record.inode) and not file.packed and self._is(file, record):
            file.number = record.number
            self.held.append(file)
        else:  # another file has the inode by now
            del self._lying[record.number]
            file.close()

    def _is(self, file: Generation, record: GenerationRecord) -> bool:
        """Whether a file is the closed generation of a record that names its inode: its content decides.

        One that was empty is, if it is no other generation.
        """
        if record.at.head_len:
            return file.place(record.at)
        others = (known.at for known in self._register.known.values() if known.closed and known.at.head_len)
        return not any(file.holds(at) for at in others)
