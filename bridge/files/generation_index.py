"""The index of the known generations of one source, and the matching of rotated files with these generations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from bridge.core.model import Fingerprint
from bridge.files.content import HEAD_BYTES
from bridge.files.generation import Generation
from bridge.files.generation_record import UNREAD, GenerationRecord
from bridge.files.piece_age import tells_age

SHORT = 1 << 20
"""Size in bytes up to which a file that has grown is read from its beginning when the bridge starts.

So it is seen whether the file was edited as well.
"""


class GenerationIndex:
    """The index of what is known of the generations of one source.

    `known` has their records by number; `news` are those records that the ledger does not have in this form yet.
    """

    def __init__(
        self, known: list[GenerationRecord], tell: Callable[[GenerationRecord], None] = lambda known: None
    ) -> None:
        self.known = {record.number: record for record in known}
        self._tell = tell
        for record in known:
            tell(record)
        self.news: list[GenerationRecord] = []

    def note(self, generation: Generation, *, closed: bool = False) -> None:
        """Notes in the index what a generation is known by now, as news for the ledger."""
        self.news.append(self.record(generation, closed=closed))

    def record(self, generation: Generation, *, closed: bool = False) -> GenerationRecord:
        """Updates a generation's record in the index to its state now, or before its file was gone, and returns it."""
        record, before = generation.known(closed=closed), self.known.get(generation.number)
        if generation.content is None and before is not None and before.at.offset > record.at.offset:
            record = replace(record, at=before.at, crc=before.crc)
        if before is not None:
            written, decided = record.written or before.written, record.decided or before.decided
            record = replace(record, written=written, decided=decided)
        self._keep(record)
        return record

    def at_rest(self, generation: Generation) -> None:
        """Notes in the generation index when a file was written to last, once it is carried and at rest."""
        known, (size, written) = self.known[generation.number], generation.checked
        if known.at.offset == size and known.written != written and not generation.packed:
            self._keep(replace(known, written=written))
            self.news.append(self.known[known.number])

    def _keep(self, record: GenerationRecord) -> None:
        self.known[record.number] = record
        self._tell(record)

    def amend(self, number: int, at: Fingerprint, packed: tuple[int, int] | None = None) -> None:
        """Moves a generation's record in the index to the fingerprint `at`, as news for the ledger.

        `packed`: the compressed file in which the generation was read; there is more in it where `at` lies before.
        """
        known = self.known[number]
        if known.packed:
            packed = UNREAD if known.closed and at.offset < known.at.offset else packed or known.packed
        self._keep(replace(known.at_place(at), packed=known.packed and packed))
        self.news.append(self.known[number])

    def match(self, files: list[Generation]) -> dict[Generation, GenerationRecord]:
        """Matches files with the closed generations in the index that they hold, oldest first; a file for each.

        A compressed file that was recognised before is known by its inode, size and time; a file that is where it was,
        by inode and content; any other by all of its content alone.
        """
        free = {number: record for number, record in self.known.items() if record.closed and record.at.head_len}
        found: dict[Generation, GenerationRecord] = {}
        unfinished = [record for record in self.known.values() if not record.closed]
        for fits in (_remembered, _in_place, _whole):
            for generation in files:
                if generation in found or any(same_inode(generation, record_of_open) for record_of_open in unfinished):
                    continue  # the inode decides, though a closed one may have held the same bytes
                record = next((known for known in free.values() if fits(generation, known)), None)
                if record is not None and self.is_replaced(record.number):
                    # An edit may leave size, beginning and end as they were: then the file is the newer generation.
                    record = None if any(generation.holds(known.at) for known in unfinished) else record
                if record is not None:
                    found[generation] = self._recognised(generation, free.pop(record.number))
        return found

    def match_continued(
        self, ordered: list[Generation], matched: dict[Generation, GenerationRecord], opened: dict[tuple[int, int], int]
    ) -> dict[Generation, GenerationRecord]:
        """Matches compressed files with short closed generations in the index that they hold and go on from.

        Two short generations may well begin alike. So a file counts where it holds all of one, and stands in order of
        age between those before and after: `ordered` are all files, oldest first, some `matched`, some `opened` as the
        generations of these numbers. A new generation would stand behind all that are known.
        """
        numbers = [matched[file].number if file in matched else opened.get(file.identity, 0) for file in ordered]
        free = {
            number: record for number, record in self.known.items()
            if record.closed and record.at.head_len and number not in numbers and number not in opened.values()
            and not self.is_replaced(number)
        }  # fmt: skip
        found: dict[Generation, GenerationRecord] = {}
        for i, file in enumerate(ordered):
            if numbers[i] or file.packed is None:
                continue
            before, after = max(numbers[:i], default=0), min(filter(None, numbers[i:]), default=0)
            record = next((free[n] for n in sorted(free) if before < n < after and _goes_on_from(file, free[n])), None)
            if record is not None:
                numbers[i] = record.number
                found[file] = self._recognised(file, free.pop(record.number))
        return found

    def was_seen(self, file: Generation) -> bool:
        """Whether the generation index has a generation with the device, inode and time of birth of a file."""
        return any(same_inode(file, record) and record.at.head_len for record in self.known.values())

    def seen(
        self, files: list[Generation], held: list[Generation],
        matched: dict[Generation, GenerationRecord] | None = None,
    ) -> Callable[[Generation], tuple[int, int] | None]:  # fmt: skip
        """Makes a function that looks up a file in the generation index: its number, and when it was written to last.

        `held` are the generations that are open, `matched` the files' records where the caller has matched them. A file
        that was made anew since, restored or unpacked, has another time; and so has one to which its writer went on
        writing after it was rotated, and others after it: what counts is when it was written to last as far as the
        index knows.
        """
        opened = {generation.identity: generation.number for generation in held}
        known = matched if matched is not None else self.match(files)

        def seen(file: Generation) -> tuple[int, int] | None:
            record, written = known.get(file) or self.known.get(opened.get(file.identity, 0)), file.written()
            return None if record is None else (record.number, min(written, record.written or written))

        return seen

    def has_newer(self, files: list[Generation], held: list[Generation], but: tuple[int, int]) -> bool:
        """Whether any of these files, oldest first, has content and is younger than all generations in the index.

        `held` are the open generations; one whose file was packed since is known by its content. `but` is the inode of
        one that does not count.
        """
        held = [generation for generation in held if generation.identity != but]
        matched, opened = self.match(files), {generation.identity for generation in held}
        packed = [generation for generation in held if generation.nameless]
        known = [
            i for i, file in enumerate(files)
            if file in matched or file.identity in opened or any(file.equals(other) for other in packed)
        ]  # fmt: skip
        newer = files[known[-1] + 1 :] if known else files
        return any(file.read(1, 0) for file in newer if file.identity != but)

    def meet(self, generation: Generation, lost: int, why: str) -> None:
        """Numbers a new file in the generation index; it may hold lines of the generation `lost`, 0 for none."""
        generation.number, generation.rewrites = max([0, *self.known]) + 1, 0
        if lost:
            generation.rewrites, generation.in_doubt, generation.why = lost, True, why
        self.note(generation)

    def end(self, number: int) -> list[GenerationRecord]:
        """Closes a generation in the index whose place another file took, and returns its record in a list."""
        if (known := self.known.get(number)) is None:
            return []
        self._keep(replace(known, closed=True))
        return [self.known[number]]

    @contextmanager
    def settled(self, generation: Generation, rivals: list[Generation], of: int) -> Iterator[list[GenerationRecord]]:
        """Settles in the index of which generation a doubtful one holds lines, 0: of none; undone if the block fails.

        Of `rivals`, which are in doubt for the same reason, none holds any then. Yields the records that changed.
        """
        lost, all_of_them = self.carried(generation.rewrites), [generation, *rivals]
        before = [(other, other.in_doubt, other.rewrites) for other in all_of_them]
        for other in all_of_them if of == lost else [generation]:
            other.in_doubt, other.rewrites = False, of if other is generation else 0
        try:
            yield [*self.end(lost), *map(self.record, all_of_them)]
        except BaseException:
            for other, in_doubt, rewrites in before:
                other.in_doubt, other.rewrites = in_doubt, rewrites
                self.record(other)
            raise

    def adopt(self, file: Generation, record: GenerationRecord) -> Generation:
        """Notes in the generation index that a file is the generation of a record, and returns the file."""
        file.becomes(record)
        self.note(file)
        return file

    def is_replaced(self, number: int) -> bool:
        """Whether the index has a generation whose file took the place of the generation of this number.

        Which of its lines that file holds is known, or will be.
        """
        return any(known.rewrites == number for known in self.known.values())

    def carried(self, number: int) -> int:
        """Finds in the index the generation whose lines were carried last, from this one back; none of one in doubt."""
        record = self.known.get(number)
        while record is not None and record.in_doubt and record.rewrites:
            record = self.known.get(record.rewrites)
        return record.number if record is not None else 0

    def behind(
        self, last: Generation, files: list[Generation], fresh: Generation | None, last_written: int
    ) -> tuple[int, Generation | None, bool]:
        """Finds, by the generation index, where among rotated files, oldest first, those younger than `last` begin.

        Returns also the file in which `last` goes on, where it was saved anew and renamed since, or its own was lost;
        else None. And whether `last` is lost: none of the files holds what was carried of it. Where it is in none of
        them, those are younger that were written to after `last_written`, in ns, and stand behind all that are known:
        an index that knows only the last few generations meets none of the others anew.
        """
        own = [i for i, generation in enumerate(files) if generation.identity == last.identity]
        copies = own or [i for i, generation in enumerate(files) if last.head and generation.holds(last.fingerprint())]
        if not copies:
            matched = self.match(files)
            known = max((i for i, file in enumerate(files) if file in matched), default=-1)
            return max(known + 1, sum(file.written() < last_written for file in files)), None, bool(last.head)
        copy, gone = files[copies[-1]], last.content is None
        if copy in self.match(files) or not (gone or (last.nameless and not own and not copy.packed)):
            return copies[-1] + 1, None, self._is_backup(copy, last, fresh, own=bool(own))
        goes_on = last.goes_on_in(copy) or (own and not last.head)
        return (copies[-1] + 1, copy, False) if goes_on else (copies[-1], None, True)

    def _is_backup(self, file: Generation, last: Generation, fresh: Generation | None, *, own: bool) -> bool:
        """Whether a file that holds an indexed generation is a backup or a copy beside the log, and no rotation.

        A rotation renames the log, or copies and empties it; of a copy beside which another file took the log's place
        it is none.
        """
        if not tells_age(file.path.name):
            return True
        before = self.known[last.number]
        replaced = fresh is not None and fresh.identity != (before.device, before.inode)
        return replaced and not file.packed and (last.copied if own else last.nameless)

    def newer(
        self, files: list[Generation], fresh: Generation | None, start: int, opened: set[tuple[int, int]],
        say_once: Callable[[str, str], None] | None,
    ) -> list[Generation]:  # fmt: skip
        """Finds the files of a source that are not in the generation index yet, and closes all others.

        These are `fresh`, and of `files` those from `start` on, but not those whose inodes are `opened`. For a file
        that may be a closed generation which was edited since, `rewrites` is set to that. Where `say_once` is given, a
        file that is older than a known one is left alone, and that is said. Raises SourceError.
        """
        matched, found = self.match(files), list[Generation]()
        here = {record.number for record in matched.values()}
        gone = [record for record in self.known.values() if record.closed and record.at.head_len
                and record.number not in here and not self.is_replaced(record.number)]  # fmt: skip
        known = [i for i, file in enumerate(files) if file in matched or file.identity in opened]
        for i, file in enumerate([*files, *([fresh] if fresh else [])]):
            if i < start or file in matched or file.identity in opened:
                file.close()
            elif say_once is not None and file is not fresh and known and i < known[-1]:
                say_once(file.path.name, "is older than what was carried; it is left alone")
                file.close()
            else:
                if file is fresh:
                    file.decided = "path" if say_once is not None else "seen"
                else:
                    file.rewrites = next((known.number for known in gone if file.may_be_edited(known.at)), 0)
                file.begin()
                found.append(file)
        return found

    def find(
        self, record: GenerationRecord, rotated: list[Generation], fresh: Generation | None, taken: set[tuple[int, int]]
    ) -> Generation | None:
        """Finds the file that holds what a generation's index record says, and places its reader there; else None.

        `taken` are the inodes of others. Of a closed generation it is the file that matches it. Else the rotated file
        with its inode comes first, then of those that are no other generation the oldest, then the path: two
        generations may well begin alike, and the older one is finished first.
        """
        if (
            fresh is not None and not record.closed and not record.packed and record.written == fresh.written()
            and same_inode(fresh, record) and fresh.size() == record.at.offset and fresh.place(record.at)
        ):  # fmt: skip
            fresh.becomes(record)
            return fresh  # unchanged since; another file with the same bytes is a copy
        matched = self.match(rotated)
        if record.closed:
            order = [generation for generation, known in matched.items() if known.number == record.number]
        else:
            order = sorted(
                (generation for generation in rotated if generation not in matched),
                key=lambda generation: not same_inode(generation, record),
            )
            order += [fresh] if fresh else []
        for generation in order:
            weak = record.at.head_len == 0 and not same_inode(generation, record)
            if not weak and generation.identity not in taken and generation.place(record.at):
                if generation is fresh and record.written != fresh.written() and self._is_edited(fresh, record):
                    continue
                generation.becomes(record)
                return generation
        return None

    @staticmethod
    def _is_edited(file: Generation, record: GenerationRecord) -> bool:
        """Whether a file that begins and ends as an indexed generation did holds other bytes between.

        Asked where it was saved anew, or written to and is no longer than it was; and of a short one that has grown.
        """
        anew = file.identity != (record.device, record.inode) or file.size() == record.at.offset
        return (anew or file.size() <= SHORT) and file.differs_within(record.at.offset, record.crc)

    def copy_of(self, at: Fingerprint, rotated: list[Generation], but: tuple[int, int]) -> Generation | None:
        """Finds, with the generation index, the rotated file that is a copy of the generation that `at` describes.

        Places its reader there. None when there is none: a file of another generation, or of the inode `but`, is not
        it.
        """
        matched = self.match(rotated) if at.head_len else {}
        free = [file for file in rotated if at.head_len and file not in matched and file.identity != but]
        return next((file for file in free if file.place(at)), None)

    def _recognised(self, generation: Generation, record: GenerationRecord) -> GenerationRecord:
        """Notes in the index where a closed generation was found, if in another file than before; returns its record.

        The next look knows the generation by that file, so that a compressed one is not unpacked again, unless it holds
        more than was carried.
        """
        if _remembered(generation, record):
            return record
        packed = UNREAD if generation.packed and generation.holds_more(record.at.offset) else generation.packed
        found = replace(
            record, device=generation.identity[0], inode=generation.identity[1], packed=packed, born=generation.born
        )
        if found != record:
            self._keep(found)
            self.news.append(found)
        return found


def _remembered(generation: Generation, record: GenerationRecord) -> bool:
    if generation.born and record.born and generation.born != record.born:
        return False
    known = record.packed, (record.device, record.inode)
    return bool(generation.packed) and (generation.packed, generation.identity) == known


def _goes_on_from(file: Generation, record: GenerationRecord) -> bool:
    """Whether a file holds all that was carried of a generation in the index, as far as its CRC-32 tells."""
    return file.holds(record.at) and (record.crc < 0 or file.sum_of(0, record.at.offset) == record.crc)


def same_inode(generation: Generation, record: GenerationRecord) -> bool:
    """Whether a file has the inode of a generation's record in the index, and is packed like it.

    Compressing a file gives it another inode, which may have been any file's.
    """
    if generation.born and record.born and generation.born != record.born:
        return False
    return generation.identity == (record.device, record.inode) and bool(generation.packed) == bool(record.packed)


def _in_place(generation: Generation, record: GenerationRecord) -> bool:
    return same_inode(generation, record) and generation.holds(record.at)


def _whole(generation: Generation, record: GenerationRecord) -> bool:
    """Whether a file holds all that was carried of a closed generation in the index, and no more.

    A compressed file may hold more: what was carried of it may have been cut short.
    """
    if generation.packed is None:
        return generation.size() == record.at.offset and generation.holds(record.at)
    return generation.holds(record.at) and (record.at.offset >= HEAD_BYTES or not generation.read(1, record.at.offset))
