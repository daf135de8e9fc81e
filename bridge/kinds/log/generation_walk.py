"""Walks through a log's generations: reads the lines of the first one, ends it at its end, and goes to the next."""

from __future__ import annotations

from bridge.core.errors import SourceError
from bridge.files.generation import Generation
from bridge.files.generation_record import GenerationRecord
from bridge.kinds.log.followed import FollowedFiles
from bridge.kinds.log.line_reader import LineReader, ReadLines


class GenerationWalk:
    """The walk of one log's reader from generation to generation, oldest first.

    `damage` gets the errors found in compressed files, by generation.
    """

    def __init__(self, files: FollowedFiles, reader: LineReader, damage: dict[int, SourceError]) -> None:
        self.ended: list[GenerationRecord] = []
        """The generations that the walk has ended and that no batch has told Redis of yet."""
        self._files = files
        self._tail = files.tail
        self._reader = reader
        self._damage = damage

    def next(self, limit: int, ahead: int = 0, *, under_way: bool) -> ReadLines | None:
        """Returns lines of a log's first generation that has any left, and ends the generations before it.

        `limit` and `ahead` as in `LineReader.next`. `under_way`: some lines that were sent are not confirmed yet. None:
        no lines now. Raises SourceError, RejectStop, LedgerError.
        """
        while (generation := self._tail.first()) is not None:
            if self._files.edited is not None and not self._files.edited.knows(generation, under_way=under_way):
                return None
            last = self._tail.current() is generation  # asked before the read: lines written up to a rotation are read
            read = self._reader.next(generation, limit, ahead)
            if read is not None:
                return read
            if self._reader.barred == generation.number or self._reader.settling:
                return None
            if last and self._tail.current() is not generation:
                continue
            self.end(generation)
            if last or (record := self._tail.finish()) is None:
                return None
            left = (size := generation.size()) - generation.read_to
            if left > 0 and generation.read(1, size - 1) != b"\n":  # else whole lines came meanwhile
                self._files.unended[generation.number] = left
                said = f"{left} bytes of an unfinished line stand at the end of {generation.path.name}"
                self._say(f"{said}; they are carried if the line is ever ended")
            self.ended.append(record)
            self._reader.note_skip()
        return None

    def end(self, generation: Generation) -> None:
        """Reports damage of a log's compressed generation that was read to its end, if there is any.

        An unfinished last line, which will never be ended, goes into quarantine where nothing is damaged. Does nothing
        while the file is written still.
        """
        if generation.content is None or generation.packed is None or generation.content.settling():
            return
        damage = generation.content.damage()
        if damage and generation.number not in self._damage:
            hint = "what stands before it was carried; with a whole copy in its place the next start goes on from there"
            self._damage[generation.number] = SourceError(damage, where=generation.path.name, hint=hint)
            self._say(f"{generation.path.name} {damage}; what could be read is carried")
        self._reader.end_packed(generation)

    def _say(self, notice: str) -> None:
        self._tail.notices.append(f"{self._tail.name}: {notice}")
