"""Tails one source through its generations: follows rotation, truncation, replacement and restart.

The chain holds the generations that are not carried to their end, oldest first, each with its descriptor open; the last
one is the file at the source's path. Events are only reasons to look; what counts is its size and what stands in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import RLock

from bridge.core.errors import SourceError
from bridge.core.model import Fingerprint
from bridge.files.catalog import Catalog
from bridge.files.closed_generations import KEPT_LATE, ClosedGenerations
from bridge.files.generation import TAIL, Generation, shut
from bridge.files.generation_index import GenerationIndex
from bridge.files.generation_record import GenerationRecord
from bridge.files.piece_times import Times
from bridge.files.source_paths import GROWING, SURVEYS, PathsProvider, same


class Tail:
    """A tail follows the files of one source. Thread-safe by `lock`; the caller takes its `news` and `notices`."""

    aligns = True
    """Whether the caller finds out which lines of a file that took the log's place were carried before."""

    def __init__(self, catalog: Catalog, name: str, known: list[GenerationRecord], times: Times | None = None) -> None:
        self.name, self.path = name, catalog.root / name
        self.lock = RLock()
        self.notices: list[str] = []
        self._catalog, self._survey = catalog, PathsProvider(catalog, name, self._say_once, times)
        self._ignored, self.register = set[str](), GenerationIndex(known, partial(catalog.claim, name))
        self._chain, self._absent = list[Generation](), tuple[int, ...]()
        self.finished = ClosedGenerations(self._survey, self.register)
        self.owed: Callable[[], object] | None = None  # called before the next look; raises SourceError

    @property
    def _late(self) -> list[Generation]:
        """The finished generations of the tail's source that are open."""
        return self.finished.held

    @property
    def news(self) -> list[GenerationRecord]:
        """The tail's records of generations that are new or known by more than before: the ledger takes them."""
        return self.register.news

    def look(self) -> None:
        """Looks whether the tail's files still match its chain, and takes changes in. Raises SourceError: try again."""
        with self.lock:
            if self.owed is not None:
                self.owed()
            if not self._chain:
                with self._wholly():
                    self._start()
                return
            current = self._chain[-1]
            found = self._survey.at_path()  # None: moved away or deleted; the descriptor still reads
            here = found is not None and (found.st_dev, found.st_ino) == current.identity
            if found is not None and here and (found.st_size, found.st_mtime_ns) == current.checked:
                self.register.at_rest(current)
                return
            empty, before = not current.head, current.checked
            why = current.changed()  # also of a moved file: it may have been copied and emptied before
            if here and empty and current.head:  # nothing proves that these are its first bytes
                met = current.head, current.checked
                current.head, current.checked = b"", before
                if self._skipped(current):
                    why = "it was filled, copied and emptied"
                else:
                    current.head, current.checked = met
                    self.introduce(current)
            elif current.head:
                self.introduce(current)
            if why:
                self._replaced_in_place(current, why)
            elif found is not None and not (here and current.content is not None):
                self._moved_on(current)
            elif found is None and (0 in (marks := self._survey.marks()) or marks != self._absent):
                self._append_newer(current)  # a whole log may have come and gone to a rotated name
                self._absent = marks

    def current(self) -> Generation | None:
        """Returns the generation at the source's path, as of the tail's last look; None when there is no such file."""
        return self._chain[-1] if self._chain else None

    def first(self) -> Generation | None:
        """Returns the oldest generation that the tail has not carried to its end; None when there is none."""
        return self._chain[0] if self._chain else None

    def of_identity(self, identity: tuple[int, int]) -> Generation | None:
        """Returns the tail's open generation of this device and inode, which an open file keeps; or None."""
        opened = (generation for generation in (*self._chain, *self._late) if generation.content is not None)
        return next((generation for generation in opened if generation.identity == identity), None)

    def of_number(self, number: int) -> Generation | None:
        """Returns the tail's open generation that has this number, or None."""
        return next((generation for generation in (*self._chain, *self._late) if generation.number == number), None)

    def reopen(self, number: int) -> Generation | None:
        """Opens a generation that the tail knows, by its content, and keeps it with the finished ones; or None."""
        with self.lock:
            found = self._find(self.register.known[number]) if number in self.register.known else None
            if found is not None:
                self._late.append(found)
            return found

    def lies_elsewhere(self, identity: tuple[int, int], start: int, data: bytes) -> bool:
        """Whether another file of the tail copies this deleted, open one, with these bytes. Raises SourceError."""
        with self.lock:
            generation = self.of_identity(identity)
            return self._survey.holds(identity, generation.head if generation is not None else b"", start, data)

    def pending(self) -> list[Generation]:
        """Returns the tail's generations that are not carried to their end, oldest first."""
        return list(self._chain)

    def late(self) -> list[Generation]:
        """Returns the tail's finished generations that have grown since: a writer still held the old descriptor."""
        for generation in (grown := [generation for generation in self._late if generation.grown()]):
            self.introduce(generation, closed=True)
        return grown

    @property
    def restless(self) -> bool:
        """Whether the tail must look again although no file of its source changed: it reads a file without a name."""
        return self.owed is not None or not all(map(self._catalog.lies, self._inodes()))

    def watch_finished(self) -> None:
        """Makes the tail open finished generations whose files have grown, however long ago. Called under the lock."""
        self.finished.watch(self._chain, self._inodes())

    def introduce(self, generation: Generation, *, closed: bool = False) -> None:
        """Notes for the tail the first bytes of a generation numbered when empty, before a line of it is sent."""
        if not self.register.known[generation.number].at.head_len:
            generation.extend_head()
            if generation.head:
                self.register.note(generation, closed=closed)

    def close(self) -> None:
        """Closes every file of the tail that is open."""
        with self.lock:
            shut([*self._chain, *self._late])
            self._chain, self.finished.held = [], []

    def peek(self, generation: Generation, limit: int) -> bytes:
        """Reads up to `limit` bytes behind the reader of a tail's generation; none of other content: look again."""
        with self.lock:
            return generation.peek(limit)

    def read(self, generation: Generation, size: int, offset: int) -> bytes:
        """Reads up to `size` bytes of a tail's generation. Raises SourceError, also where the file was replaced."""
        with self.lock:
            if generation.content is not None:
                return generation.read(size, offset)
        raise SourceError("was replaced while it was read", where=str(generation.path))

    def pass_over(self, generation: Generation, end: int) -> None:
        """Moves the reader of a tail's generation to `end`, over what `read` returned, if the file has not changed."""
        with self.lock:
            generation.pass_over(end)

    def advance(self, generation: Generation, consumed: bytes) -> None:
        """Moves the reader of a tail's generation over what `peek` returned, locked, as a look compares both."""
        with self.lock:
            generation.advance(consumed)

    def finish(self) -> GenerationRecord | None:
        """Ends the tail's oldest unfinished generation, when another follows it; returns its record, or None."""
        with self.lock:
            return self._end(self._chain.pop(0)) if len(self._chain) > 1 else None

    def _end(self, done: Generation) -> GenerationRecord:
        self.finished.add(done)
        return self.register.record(done, closed=True)

    def seek(self, number: int, at: Fingerprint) -> None:
        """Moves the tail to a position that Redis confirmed: later generations are read from their beginning."""
        with self.lock, self._wholly():
            for ended in [g for g in self._chain if g.number < number]:  # Redis knows it, the ledger does not
                self._chain.remove(ended)
                self.news.append(self._end(ended))
            back = [generation for generation in self._late if generation.number >= number]
            self.finished.held = [generation for generation in self._late if generation.number < number]
            self._chain += back
            held = {generation.number for generation in self._chain}
            for record in self.records():
                if record.number < number or record.number in held:
                    continue
                exact = record.number == number
                known = record if record.closed or not exact else record.reopened(at)
                found = self._find(known)
                if found is not None:
                    self._chain.append(found)
                elif exact or not record.closed:
                    if exact and at.offset > record.at.offset:  # Redis knew more of it than the ledger
                        self.amend(number, at)
                    if not self.register.is_replaced(record.number):
                        self._say(f"generation {record.number} is not to be found any more")
            self._chain.sort(key=lambda generation: generation.number)
            for generation in self._chain:
                if generation.number != number:
                    generation.read_to, generation.tail, generation.checked = 0, b"", (-1, -1)
                elif not generation.place(at):
                    if generation is self._chain[-1] and generation.content is not None:
                        self._replaced_in_place(generation, f"it is not what was read up to offset {at.offset}", at)
                    else:
                        generation.close()

    def seek_offset(self, number: int, offset: int) -> bool:
        """Moves the tail to an offset of which nobody wrote down digests; False: the generation is unknown."""
        with self.lock:
            if number not in self.register.known:
                return False
            self.seek(number, self.register.known[number].at)
            first, back = self.first(), min(TAIL, offset)
            if first is not None and first.number == number:
                first.read_to, first.tail = offset, first.read(back, offset - back)
            return True

    def seek_late(self, number: int, at: Fingerprint) -> None:
        """Moves the reader of a finished generation of the tail that has grown to `at`; closes one of other content."""
        for other in [g for g in self._late if g.number == number and not g.place(at)]:
            self._late.remove(other)
            other.close()

    def amend(self, number: int, at: Fingerprint, packed: tuple[int, int] | None = None) -> None:
        """Moves the tail's record of a generation to the fingerprint `at`, as `GenerationIndex.amend` does."""
        self.register.amend(number, at, packed)

    def confirmed(self, generation: Generation) -> GenerationRecord:
        """Records for the tail that Redis has confirmed a generation's bytes up to the reader's place."""
        return self.register.record(generation)

    def record(self, number: int) -> GenerationRecord:
        """Returns the tail's record of the generation that has this number."""
        return self.register.known[number]

    def records(self) -> list[GenerationRecord]:
        """Returns the records of all generations that the tail knows, oldest first."""
        return [self.register.known[number] for number in sorted(self.register.known)]

    # -- taking in what changed ------------------------------------------------------------------------------

    @contextmanager
    def _wholly(self) -> Iterator[None]:
        """Drops the tail's half-built chain if the block fails: its last generation would pass for the newest one."""
        try:
            yield
        except BaseException:
            shut(self._chain)
            self._chain = []
            raise

    def _start(self) -> None:
        """Has the tail look for the first time in a process: it finds known generations, then what came since."""
        held, met = {generation.number for generation in self._late}, bool(self.register.known)
        newest, lost = max(self.register.known, default=0), 0
        for record in self.records():
            if record.number in held or not record.may_be_read(newest - KEPT_LATE, newest):
                continue
            found = self._find(record)
            if found is not None:
                (self._late if record.closed else self._chain).append(found)
            elif not record.closed and record.at.head_len:
                lost = record.number
        last = self._chain[-1] if self._chain else None
        if last is not None and not self.register.known[last.number].at.head_len and self._skipped(last):
            last.close()  # an empty file has no fingerprint: its content now came after the rotated files
            self._chain.remove(last)
            last = self._chain[-1] if self._chain else None
        replaced = (last is None or last.path != self.path) and self._append_newer(last, lost=lost)
        self.register.news += self.register.end(lost) if lost and self.register.known[lost].in_doubt else []
        if lost and not replaced and not self.register.is_replaced(lost):
            end = self.register.known[lost].at.offset
            self._say_once(f"generation {lost}", f"is gone; if anything stood in it behind byte {end}, it was not read")
        if met:
            self.finished.reopen_packed(self._chain, self._say_once)

    def _skipped(self, last: Generation) -> bool:
        """Whether a rotated file with content is younger than all generations that the tail knows, but for `last`."""
        rotated, fresh = self._files()
        found = self.register.has_newer(rotated, [*self._chain, *self._late], last.identity)
        shut(rotated, fresh)
        return found

    def _files(self) -> tuple[list[Generation], Generation | None]:
        """Opens the tail's rotated files, oldest first, without mere copies; and the file at the source's path."""
        rotated, fresh = self._survey.take()
        self.finished.drop_replaced()
        held = [*self._chain, *self._late]
        rotated = self._survey.without_copies(rotated, fresh, held, self.register.was_seen)
        return self._survey.in_age_order(rotated, self.register.seen(rotated, held)), fresh

    def _inodes(self) -> set[tuple[int, int]]:
        return {generation.identity for generation in (*self._chain, *self._late) if generation.content is not None}

    def _find(self, record: GenerationRecord) -> Generation | None:
        """Opens the file that holds a generation of the tail's record, placed where that says; None when it is gone."""
        for _ in range(2):  # during the first try the file may have been copied and emptied
            rotated, fresh = self._files()
            chosen = self.register.find(record, rotated, fresh, self._inodes())
            shut(rotated, fresh, but=chosen)
            if chosen is not None:
                return chosen
        copy = None if record.closed else self._survey.stranger_of(record)
        return self.register.adopt(copy, record) if copy is not None else None

    def _moved_on(self, current: Generation) -> None:
        """Takes another file at the tail's path in: the same content saved anew, or the next generation."""
        rotated, fresh = self._survey.take()
        shut(rotated)
        self.introduce(current)
        if fresh is None:
            return
        if current.identity not in {generation.identity for generation in rotated} and current.goes_on_in(fresh):
            self._take_over(current, fresh)
        else:
            fresh.close()
            self._append_newer(current, current.checked[1] if current.content is None else -1)

    def _take_over(self, current: Generation, file: Generation) -> None:
        current.take_over(file, file.path)
        self.register.note(current)

    def _append_newer(self, last: Generation | None, last_written: int = -1, *, lost: int = 0, why: str = "") -> bool:
        """Numbers the tail's files younger than `last` or, if it is gone, written after `last_written` (ns), by age.

        They are in doubt where they may hold lines of `last` or of the generation `lost`. Returns whether any is.
        Again, where a rotated file came, went or changed meanwhile: what was met may stand in that by now.
        """
        lost = last.number if last is not None and last.in_doubt and not lost else lost
        for turn in range(SURVEYS):
            before = self._survey.stamps()
            (files, fresh), start = self._files(), 0
            if last is not None:
                start, anew, is_lost = self.register.behind(last, files, fresh, last_written)
                lost = last.number if is_lost and last.number not in self._survey.rotated_copies else lost
                if anew is not None:
                    self._take_over(last, anew)
            newer = self.register.newer(files, fresh, start, self._inodes(), None if last else self._say_once)
            if same(before, self._survey.stamps(), grown=turn >= GROWING):
                break
            shut(newer)
        else:
            raise SourceError("its files change faster than they can be met", where=str(self.path))
        for file in newer:
            self.register.meet(file, (lost or file.rewrites) if self.aligns else 0, why)
            self._chain.append(file)
        return bool(newer)

    def _replaced_in_place(self, current: Generation, why: str, at: Fingerprint | None = None) -> None:
        """Begins a generation at 0 of the tail's file, which has other content (truncated, copytruncate, rewritten)."""
        at = at or current.fingerprint()
        rotated, now = self._survey.take()
        shut(rotated, now, but=(copy := self.register.copy_of(at, rotated, but=current.identity)))
        copy = copy or self._survey.stranger(at)
        lost = current.number if copy is None and (at.head_len or current.in_doubt) and self.aligns else 0
        if at.head_len and not lost:
            kept = f"its unread rest is in {copy.path.name}" if copy else "no rotated file holds what stood in it"
            self._say(f"{why}: the next generation begins at 0; {kept}")
        last_written = current.checked[1]
        current.close()
        current.identity = (-1, -1)
        if copy is not None:
            current.take_over(copy, copy.path)
            current.read_to, current.tail, current.head = copy.read_to, copy.tail, copy.head
        elif not at.head_len:
            self._chain.remove(current)
        if current in self._chain:
            self.register.note(current)
        if copy is None and at.offset > current.read_to:
            self.amend(current.number, at)
        self._append_newer(current, last_written, lost=lost, why=why)

    def distrust(self, generation: Generation, why: str) -> bool:
        """Takes the tail's newest file, edited ahead of the reader, for another one; False: it is not the newest."""
        with self.lock:
            if is_newest := generation is self.current():
                self._replaced_in_place(generation, why)
            return is_newest

    @contextmanager
    def settled(self, generation: Generation, of: int) -> Iterator[list[GenerationRecord]]:
        """Notes for the tail of which generation's lines one holds some, as `GenerationIndex.settled` does."""
        rivals = [*filter(generation.rivals, self._chain)]
        with self.lock, self.register.settled(generation, rivals, of) as changed:
            yield changed

    def _say_once(self, name: str, what: str, said: str = "") -> None:
        """Adds a notice to the tail, once for each file name: the name and `what`, or `said` instead of both."""
        if name not in self._ignored:
            self._ignored.add(name)
            self._say(said or f"{name} {what}")

    def _say(self, what: str) -> None:
        self.notices.append(f"{self.name}: {what}")
