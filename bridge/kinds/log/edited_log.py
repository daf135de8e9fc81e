"""Aligns an edited log, a file that took a log's place, with the lines that were carried before (DESIGN §6.2).

Forward passes over the lines that were carried before; every other line is new, and is sent. Nothing of such a file is
sent before the alignment is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from itertools import pairwise

from bridge.core.errors import RewriteStop
from bridge.core.failpoints import failpoint
from bridge.core.model import ZERO_ID, hex_digest
from bridge.core.wording import clock, counted, duration
from bridge.files.alignment import Alignment, MatchedRun, align, in_order
from bridge.files.generation import Generation
from bridge.files.lines import Cut
from bridge.files.tail import Tail
from bridge.kinds.log import carried_before
from bridge.kinds.log.carried_before import CarriedLines, LineColumns
from bridge.kinds.log.edit_records import save_edit_record
from bridge.kinds.log.edit_summary import edited, in_words
from bridge.kinds.log.moved_lines import MovedRanges, moved_by, sorted_out
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.provenance import exclude_mirrored
from bridge.ledger.acknowledgements import RedactedLine, accepted_of, redacted_of
from bridge.ledger.edits import (
    ALIGNED,
    AS_EDIT,
    AS_NEW,
    NEW,
    STOPPED,
    CarriedSpan,
    LogEdit,
    rewrites_of,
    save_carried_spans,
    save_rewrite,
)
from bridge.ledger.ranges import add_range, barrier, drop_range
from bridge.ledger.sources import save_generation
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.edits import LogEditRecord

REPLACED_SETTLE_SECONDS = 2.0
"""Seconds after which an edited log is examined although programs write to the file all the time."""

SHARED = 10
"""Shared lines, if they are also half of the file, from which on the bridge leaves it to a person to call a file new.

Also: lines before the first carried one that count as more than a few.
"""


class EditedLog:
    """Finds out which lines of an edited log were carried before, for each generation that took a lost one's place.

    Used by forward's thread.
    """

    def __init__(
        self, shared: MappingContext, tail: Tail, ledger: Ledger, number: Callable[[], int], clock: Callable[[], float],
        dial: Callable[[], Connection],
    ) -> None:  # fmt: skip
        self._shared = shared
        self._tail = tail
        self._ledger = ledger
        self._number = number
        self._clock = clock
        self._dial = dial
        self._stream = shared.mapping.stream.key
        self._settle = shared.mapping.source.settle_ms / 1000
        self._met = (0, 0.0)
        self._again_at = 0.0
        self._stop: tuple[tuple[int, int, int], RewriteStop] | None = None
        self._in_front = False
        """Whether more than a few lines stand before the first carried line in the file that is being examined."""
        self.waits = False
        """Whether an edited file needs another look in a moment: it is not at rest, or what was sent not confirmed."""

    def knows(self, generation: Generation, *, under_way: bool) -> bool:
        """Whether it is known which lines of a log's generation were carried before; aligns an edited file at rest.

        `under_way`: some lines that were sent are not confirmed yet. Raises RewriteStop: nothing tells which lines were
        carried; SourceError, RedisLost, RedisRefused, LedgerError.
        """
        self.waits = False
        if not generation.in_doubt or generation.content is None:
            return True  # a file that was replaced before it was examined: nothing of it was carried
        size, written = generation.size(), generation.written()
        on_rewrite = self._shared.mapping.source.on_rewrite
        if on_rewrite == "new" or (not size and self._tail.current() is not generation):
            of = self._tail.register.carried(generation.rewrites)
            self._save(generation, self._found(generation, of, NEW), [], [])
            return True
        if not size:
            return False
        facts = generation.number, size, written
        if self._stop is not None and self._stop[0] == facts and not self._said(generation):
            raise self._stop[1]
        now = self._clock()
        if self._met[0] != generation.number:
            self._met = generation.number, now
        quiet = now - written / 1e9 >= self._settle or now - self._met[1] >= REPLACED_SETTLE_SECONDS
        if under_way or not quiet or now < self._again_at:
            self.waits = True
            return False
        if barrier(self._ledger, self._stream, self._tail.name, generation.number) is not None:
            return False
        return self._find_out(generation, facts)

    def _said(self, generation: Generation) -> str:
        """Reads from the ledger what a person says that an edited file is, `AS_NEW` or `AS_EDIT`; empty: nobody did."""
        found = [told for told in rewrites_of(self._ledger, self._stream, self._tail.name)
                 if told.generation == generation.number]  # fmt: skip
        return found[0].how if found and found[0].how in (AS_NEW, AS_EDIT) else ""

    def _found(self, generation: Generation, of: int, how: str, why: str = "") -> LogEdit:
        return LogEdit(self._tail.name, generation.number, of, self._clock(), how, why=why)

    def _find_out(self, generation: Generation, facts: tuple[int, int, int]) -> bool:
        """Aligns an edited generation with the one whose place it took, and with others where that is not enough.

        Returns False while the file is still changing. A rotated file may have been edited long after its rotation, so
        it is also aligned with the generations whose own files are gone. A file with much put in at its beginning is
        aligned with all finished generations: a piece may have been put back there.
        """
        failpoint("forward.align.before")
        of = self._tail.register.carried(generation.rewrites)
        gone, here = self._others(generation, of)
        tries = [[of]]
        tries += [gone] if gone and generation.path != self._tail.path else []
        tries += [sorted([*gone, *here, of])] if gone or here else []
        self._in_front = False
        with suppress(_Changed):
            for numbers in [*tries, [of]] if len(tries) > 1 else tries:
                if len(numbers) > 1 and of in numbers and not self._in_front:
                    continue
                with closing(self._before(numbers)) as old:
                    is_last = len(tries) == 1 or (numbers == [of] and numbers is not tries[0])
                    known = self._lay_beside(generation, facts, old, of, here, is_last=is_last)
                if known is not None:
                    return known
        return False

    def _others(self, generation: Generation, but: int) -> tuple[list[int], list[int]]:
        """Lists the log's finished generations whose own files are gone, and those with files, to align an edited log.

        Both oldest first, without the generation `but`. `generation` may be one of the former, edited.
        """
        here = self._shared.catalog.lying(self._tail.name, generation.identity)
        finished = [
            known.number for known in self._tail.records()
            if known.closed and known.at.head_len and known.number != but
            and not self._tail.register.is_replaced(known.number)
        ]  # fmt: skip
        return [n for n in finished if n not in here], [n for n in finished if n in here]

    def _lay_beside(
        self, generation: Generation, facts: tuple[int, int, int], old: LineColumns, of: int, here: Sequence[int], *,
        is_last: bool,
    ) -> bool | None:  # fmt: skip
        """Aligns an edited generation's lines with `old`, those carried before, and saves what is found.

        Returns False: the file may still be being written; None: other generations are to be tried. Lines of
        generations whose files are `here` stand in those files as well.
        """
        said, name, folder = self._said(generation), self._tail.name, self._ledger.path.parent
        codec, limit = self._shared.mapping.codec(name), self._shared.mapping.format.max_line_bytes
        key = carried_before.by_bytes if old.of_a_file else carried_before.by_meaning(codec)
        with closing(carried_before.in_file(self._reading(generation), codec, limit, folder, key)) as new:
            starts, ends = new.starts.numbers(), new.ends.numbers()
            keys = old.keys.numbers(), new.keys.numbers()
            if said == AS_NEW:
                found = Alignment(())
            else:
                found = in_order(*keys) if said == AS_EDIT else align(*keys, lambda n: ends[n] - starts[n])
            self._in_front = self._in_front or bool(found.runs and found.runs[0].new >= SHARED)
            if not is_last and (not found.runs or (old.of_one_generation and self._in_front)):
                return None
            if (
                _may_go_on(found, *keys)
                and self._clock() - facts[2] / 1e9 < REPLACED_SETTLE_SECONDS
                and not generation.read_to
            ):
                self._again_at, self.waits = self._clock() + REPLACED_SETTLE_SECONDS / 4, True
                return False  # the file ends amid the lines of before: perhaps it is still being written
            self._stop_if_unsure(generation, facts, found, old, new, said)
            moved = list(moved_by(found.runs, starts, ends, old.starts.numbers()))
            of = next((part.of for part in moved if part.of == of), moved[0].of) if moved else of
            piece = generation.path.name if moved and generation.path != self._tail.path else ""
            rewrite = edited(self._found(generation, of, ALIGNED if moved else NEW, piece), found.runs, *keys)
            unknown = []
            if said == AS_EDIT and starts and _head_unknown(old, new, found.runs):
                head = starts[found.runs[0].new] if found.runs else ends[-1]
                unknown = [CarriedSpan(0, head, 0, 0)] if head else []
            behind = max((stretch.end for stretch in unknown), default=0)
            redacted = [told for told in self._redacted(generation, found.runs, starts, ends) if told.start >= behind]
            unproved = (found.runs[0].new if found.runs else len(starts)) if unknown else 0
            rewrite = replace(rewrite, put_in=max(0, rewrite.put_in - len(redacted) - unproved))
        if unproved:
            self._tail.notices.append(
                f"{name}: its first {counted(unproved, 'line')} are passed over, as somebody said --as-edit:"
                " nothing tells which of them were carried"
            )
        stretches, ranges = sorted_out(self._ledger, self._stream, name, moved, here)
        self._save(generation, rewrite, sorted([*unknown, *stretches, *redacted]), ranges)
        return True

    def _redacted(
        self, generation: Generation, runs: Sequence[MatchedRun], starts: Sequence[int], ends: Sequence[int]
    ) -> list[CarriedSpan]:
        """Finds an edited file's lines outside the runs whose entries were redacted, each once: they are not sent."""
        gone: dict[str, list[RedactedLine]] = {}
        for told in (*redacted_of(self._ledger, self._stream, self._tail.name), *self._without_entry()):
            gone.setdefault(told.digest, []).append(told)
        found, at = list[CarriedSpan](), 0
        for run in [*runs, MatchedRun(0, len(starts), 0)] if gone else []:
            for n in range(at, run.new):
                line = generation.read(ends[n] - starts[n] - 1, starts[n])
                if known := gone.get(hex_digest(line)) or gone.get(hex_digest(line + b"\n\0")):
                    told = known.pop(0)
                    found.append(CarriedSpan(starts[n], ends[n], told.generation, told.offset))
            at = run.new + run.count
        return found

    def _without_entry(self) -> Iterator[RedactedLine]:
        """Yields the log's lines that somebody acknowledged as having no entry, to find them in an edited file.

        The digest of an acknowledgement is over both sides.
        """
        for told in accepted_of(self._ledger, self._stream):
            name, generation, offset = told.first.rsplit(":", 2) if told.first.count(":") >= 2 else ("", "0", "0")
            if told.kind == "missing_in_redis" and name == self._tail.name:
                yield RedactedLine(ZERO_ID, name, int(generation), int(offset), 0, told.digest)

    def _before(self, numbers: Sequence[int]) -> LineColumns:
        """Reads the messages carried before from generations, to align an edited log with them.

        One generation is read from its own file while that is open; else from the stream.
        """
        name, folder = self._tail.name, self._ledger.path.parent
        held = self._tail.of_number(numbers[0])
        if len(numbers) == 1 and held is not None and held.content is not None:
            codec, limit = self._shared.mapping.codec(name), self._shared.mapping.format.max_line_bytes
            read = carried_before.reading(held, held.read_to)
            return carried_before.in_file(read, codec, limit, folder, carried_before.by_bytes, of=held.number)
        with closing(self._dial()) as connection:
            carried = CarriedLines(self._shared, self._ledger, connection, name, self._number())
            ends = {known.number: known.at.offset for known in self._tail.records()}
            return carried.read({number: ends.get(number, 0) for number in numbers}, folder)

    def _reading(self, generation: Generation) -> carried_before.Read:
        """Makes a function that reads an edited file without the mirror's ranges, for the alignment.

        The function raises _Changed when the file was closed meanwhile, as another took its place.
        """
        ours = self._shared.mapping.mirror is not None

        def at_once(size: int, offset: int) -> bytes:
            with self._tail.lock:
                if generation.content is None:
                    raise _Changed
                return generation.read(size, offset)

        def read(size: int, offset: int) -> tuple[bytes, list[Cut], bool]:
            data = at_once(size, offset)
            more, cuts = len(data) == size, list[Cut]()
            if ours and data:
                here = self._stream, self._tail.name, generation.number
                data, cuts, stale = exclude_mirrored(self._ledger, *here, offset, data, at_once)
                for span in stale:  # edited since the mirror wrote there: these bytes are no longer the mirror's
                    drop_range(self._ledger, self._stream, span)
            return data, cuts, more

        return read

    def _stop_if_unsure(
        self, generation: Generation, facts: tuple[int, int, int], found: Alignment, old: LineColumns, new: LineColumns,
        said: str,
    ) -> None:  # fmt: skip
        """Raises RewriteStop when nothing tells which lines of an edited file were carried before, so a person must.

        So it is where lines are shared in no order, or where the entries of some carried lines cannot be read any more.
        Also raised for any shared line if `on_rewrite` is "stop".
        """
        if said or generation.read_to:  # what the reader has passed is carried already
            return
        many = len(new.keys.numbers())
        why, shared = "", found.shared or found.passed()
        if self._shared.mapping.source.on_rewrite == "stop" and shared:
            why = f"{counted(shared, 'line')} of before stand in it, and on_rewrite is stop"
        elif _head_unknown(old, new, found.runs) and (found.runs or found.shared or not old.keys.numbers()):
            unsure = found.runs[0].new if found.runs else many
            gone = "trimmed and no archive has them" if old.trimmed else "carried whose entries somebody removed"
            why = f"lines of before were {gone}: its first {unsure:,} may be some of those"
        elif not found.runs and found.shared >= SHARED and 2 * found.shared >= many:
            why = f"{found.shared:,} of its {counted(many, 'line')} stood there before, in no order that tells which"
        if not why:
            return
        name = self._tail.name
        hint = (
            f"`bridge repair --as-edit {name}` passes over what stood there before,"
            f" `bridge repair --as-new {name}` sends all of it; {self._deadline()}"
        )
        error = RewriteStop(f"another file took its place, and {why}", where=name, hint=hint)
        self._stop = facts, error
        with self._ledger.transaction():
            of = self._tail.register.carried(generation.rewrites)
            save_rewrite(self._ledger, self._stream, self._found(generation, of, STOPPED, why))
        raise error

    def _deadline(self) -> str:
        """Estimates, in words, when the next rotation is due: until then a person must say what an edited file is.

        The file lies there until rotations delete it.
        """
        records = self._tail.records()
        edited = {known.rewrites for known in records}
        closed = sorted(
            known.written / 1e9 for known in records if known.closed and known.written and known.number not in edited
        )
        apart = [b - a for a, b in pairwise(closed) if b > a]
        if not apart:
            return "it waits as long as the file lies there"
        each, now = sorted(apart)[len(apart) // 2], self._clock()
        due = clock(max(closed[-1] + each, now), now)
        return f"the next rotation is due at about {due}, one each {duration(each)}"

    def _save(
        self, generation: Generation, found: LogEdit, stretches: Sequence[CarriedSpan], moving: Sequence[MovedRanges]
    ) -> None:
        """Saves the alignment of an edited file in Redis and then in the ledger, there in one transaction.

        Raises _Changed: another file took its place meanwhile.
        """
        with self._tail.lock:
            if found.how == ALIGNED and (generation.content is None or generation.changed() is not None):
                raise _Changed
            placed = [(told, told.parts(generation)) for told in moving]
            marked = [told._replace(crc=generation.sum_of(told.start, told.end)) for told in stretches]
            if found.how == ALIGNED:  # Redis first: a ledger that is lost after this is rebuilt from Redis
                failpoint("forward.record.before")
                with closing(self._dial()) as connection:
                    save_edit_record(
                        connection, self._shared, self._number(), {generation.number: LogEditRecord(found.of, marked)}
                    )
                failpoint("forward.record.after")
            of = found.of if found.how == ALIGNED else 0
            with self._tail.settled(generation, of) as records, self._ledger.transaction():
                for told, parts in placed:
                    drop_range(self._ledger, self._stream, told.span)
                    for part in parts:
                        add_range(self._ledger, self._stream, part)
                save_carried_spans(self._ledger, self._stream, self._tail.name, generation.number, marked)
                save_rewrite(self._ledger, self._stream, found)
                for known in records:
                    save_generation(self._ledger, self._stream, self._tail.name, known)
            failpoint("forward.align.after")
            self._stop = None
            if said := in_words(found, found.at, generation.why):
                self._tail.notices.append(said)


class _Changed(Exception):
    """Raised when an edited file changed while it was being aligned: the next look examines it again."""


def _head_unknown(old: LineColumns, new: LineColumns, runs: Sequence[MatchedRun]) -> bool:
    """Whether an edited file's lines before the first run may be carried ones whose entries cannot be read any more."""
    starts, ends = new.starts.numbers(), new.ends.numbers()
    head = range(runs[0].new if runs else len(starts))
    return bool(head) and (old.trimmed or any(ends[n] - starts[n] <= old.unknown for n in head))


def _may_go_on(found: Alignment, old: Sequence[int], new: Sequence[int]) -> bool:
    """Whether an edited file ends amid the lines carried before, so that a program may still be writing the rest."""
    if not found.runs:
        return bool(found.shared) and found.shared == len(new)
    last = found.runs[-1]
    return last.new + last.count == len(new) and last.old + last.count < len(old)
