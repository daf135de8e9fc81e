"""Finds out, of a file that took a log's place, which of its lines were carried before (DESIGN §6.2).

Forward passes over those; every other line is new, and is sent. Nothing of such a file is sent before that is known.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import pairwise

from bridge.carry import former
from bridge.carry.edits import edited, in_words
from bridge.carry.former import Carried, Messages
from bridge.carry.provenance import foreign
from bridge.carry.shared import Shared
from bridge.errors import RewriteStop
from bridge.files.alignment import Aligned, Run, align, in_order
from bridge.files.generation import Generation
from bridge.files.lines import Cut
from bridge.files.tail import Tail
from bridge.ledger.accepted import Redacted, accepted_of, redacted_of
from bridge.ledger.aligned import (
    ALIGNED,
    AS_EDIT,
    AS_NEW,
    NEW,
    STOPPED,
    Rewrite,
    Stretch,
    rewrites_of,
    save_rewrite,
    save_stretches,
    stretches_of,
)
from bridge.ledger.mirrored import Range, add_range, barrier, drop_range, range_digest, ranges_of
from bridge.ledger.sources import save_generation
from bridge.ledger.store import Ledger
from bridge.model import ZERO_ID, hex_digest
from bridge.points import reached
from bridge.streams.connect import Connection
from bridge.words import clock, counted, duration

PATIENCE = 2.0
"""Seconds after which a file that took a log's place is looked at although it is written to all the time."""

SHARED = 10
"""So many lines of the file before must stand in a file, and be half of it, for nobody to dare to call it new."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes `start` to `end` of a file that hold what byte `of_start` and those behind it held in the file before."""

    start: int
    end: int
    of_start: int


class Rewritten:
    """Settles the doubt about one log's generations that took the place of a lost one. Used by forward's thread."""

    def __init__(
        self, shared: Shared, tail: Tail, ledger: Ledger, number: Callable[[], int], clock: Callable[[], float],
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
        self.waits = False
        """Whether a file is not at rest yet, and will be in a moment."""

    def knows(self, generation: Generation, *, under_way: bool) -> bool:
        """Whether it is known which lines of a generation were carried before; finds it out, where the file is at rest.

        `under_way`: some that were sent are not confirmed yet. Raises RewriteStop: nothing tells; SourceError,
        RedisLost, RedisRefused, LedgerError.
        """
        self.waits = False
        if not generation.in_doubt or generation.content is None:
            return True  # of one that was replaced before it was looked at nothing was carried
        size, written = generation.size(), generation.written()
        on_rewrite = self._shared.mapping.source.on_rewrite
        if on_rewrite == "new" or (not size and self._tail.current() is not generation):
            self._save(generation, self._found(generation, NEW), [], [])
            return True
        if not size:
            return False
        facts = generation.number, size, written
        if self._stop is not None and self._stop[0] == facts and not self._said(generation):
            raise self._stop[1]
        now = self._clock()
        if self._met[0] != generation.number:
            self._met = generation.number, now
        quiet = now - written / 1e9 >= self._settle or now - self._met[1] >= PATIENCE
        if under_way or not quiet or now < self._again_at:
            self.waits = True
            return False
        if barrier(self._ledger, self._stream, self._tail.name, generation.number) is not None:
            return False
        return self._find_out(generation, facts)

    def _said(self, generation: Generation) -> str:
        """What a person says that a file is, `AS_NEW` or `AS_EDIT`; empty: nobody did."""
        found = [told for told in rewrites_of(self._ledger, self._stream, self._tail.name)
                 if told.generation == generation.number]  # fmt: skip
        return found[0].how if found and found[0].how in (AS_NEW, AS_EDIT) else ""

    def _found(self, generation: Generation, how: str, why: str = "") -> Rewrite:
        of = self._tail.register.carried(generation.rewrites)
        return Rewrite(self._tail.name, generation.number, of, self._clock(), how, why=why)

    def _find_out(self, generation: Generation, facts: tuple[int, int, int]) -> bool:
        """Aligns a generation with the one whose place it took. False: its file changed meanwhile."""
        said, name = self._said(generation), self._tail.name
        folder = self._ledger.path.parent
        reached("forward.align.before")
        of = self._tail.register.carried(generation.rewrites)
        before = self._tail.of_number(of)
        with suppress(_Changed), closing(self._before(of, before)) as old:
            by_bytes = before is not None and before.content is not None
            codec = self._shared.mapping.codec(name)
            key = former.by_bytes if by_bytes else former.by_meaning(codec)
            limit = self._shared.mapping.format.max_line_bytes
            with closing(former.in_file(self._reading(generation), codec, limit, folder, key)) as new:
                starts, ends, offsets = new.starts.numbers(), new.ends.numbers(), old.starts.numbers()
                keys = old.keys.numbers(), new.keys.numbers()
                if said == AS_NEW:
                    found = Aligned(())
                else:
                    found = in_order(*keys) if said == AS_EDIT else align(*keys, lambda n: ends[n] - starts[n])
                if _may_go_on(found, *keys) and self._clock() - facts[2] / 1e9 < PATIENCE and not generation.read_to:
                    self._again_at, self.waits = self._clock() + PATIENCE / 4, True
                    return False  # it ends amid what was there: perhaps it is being written still
                self._stop_if_unsure(generation, facts, found, old, new, said)
                moved = list(_moved(found.runs, starts, ends, offsets))
                rewrite = edited(self._found(generation, ALIGNED if moved else NEW), found.runs, *keys)
                unknown = []
                if said == AS_EDIT and old.trimmed and starts:
                    head = starts[found.runs[0].new] if found.runs else ends[-1]
                    unknown = [Stretch(0, head, 0, 0)] if head else []
                redacted = self._redacted(generation, found.runs, starts, ends)
            stretches, ranges = self._sorted_out(generation, moved)
            self._save(generation, rewrite, sorted([*unknown, *stretches, *redacted]), ranges)
            return True
        return False

    def _redacted(
        self, generation: Generation, runs: Sequence[Run], starts: Sequence[int], ends: Sequence[int]
    ) -> list[Stretch]:
        """The lines of a file, not among those passed over, whose entries were deleted on purpose, each once."""
        gone: dict[str, list[Redacted]] = {}
        for told in (*redacted_of(self._ledger, self._stream, self._tail.name), *self._without_entry()):
            gone.setdefault(told.digest, []).append(told)
        found, at = list[Stretch](), 0
        for run in [*runs, Run(0, len(starts), 0)] if gone else []:
            for n in range(at, run.new):
                line = generation.read(ends[n] - starts[n] - 1, starts[n])
                if known := gone.get(hex_digest(line)) or gone.get(hex_digest(line + b"\n\0")):
                    told = known.pop(0)
                    found.append(Stretch(starts[n], ends[n], told.generation, told.offset))
            at = run.new + run.count
        return found

    def _without_entry(self) -> Iterator[Redacted]:
        """The lines of which somebody acknowledged that they have no entry: their digest is of both sides."""
        for told in accepted_of(self._ledger, self._stream):
            name, generation, offset = told.first.rsplit(":", 2) if told.first.count(":") >= 2 else ("", "0", "0")
            if told.kind == "missing_in_redis" and name == self._tail.name:
                yield Redacted(ZERO_ID, name, int(generation), int(offset), 0, told.digest)

    def _before(self, number: int, held: Generation | None) -> Messages:
        """The messages that were carried of a generation: of its own file while that is open, else of the stream."""
        name, folder = self._tail.name, self._ledger.path.parent
        if held is not None and held.content is not None:
            codec, limit = self._shared.mapping.codec(name), self._shared.mapping.format.max_line_bytes
            return former.in_file(former.reading(held, held.read_to), codec, limit, folder, former.by_bytes)
        with closing(self._dial()) as connection:
            return Carried(self._shared, self._ledger, connection, name, self._number()).read(number, folder)

    def _reading(self, generation: Generation) -> former.Read:
        """Reads what of a file is not the mirror's. Raises _Changed: it is another by now."""
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
                data, cuts, stale = foreign(self._ledger, *here, offset, data, at_once)
                for span in stale:  # the file was edited since the mirror wrote there: the bytes are its own by now
                    drop_range(self._ledger, self._stream, span)
            return data, cuts, more

        return read

    def _stop_if_unsure(
        self, generation: Generation, facts: tuple[int, int, int], found: Aligned, old: Messages, new: Messages,
        said: str,
    ) -> None:  # fmt: skip
        """Raises RewriteStop where lines are shared and nothing tells which they are, or some of before are unknown."""
        if said or generation.read_to:  # what is behind the reader is carried, whatever it is
            return
        many = len(new.keys.numbers())
        why, shared = "", found.shared or found.passed()
        if self._shared.mapping.source.on_rewrite == "stop" and shared:
            why = f"{counted(shared, 'line')} of before stand in it, and on_rewrite is stop"
        elif old.trimmed and many and (found.runs[0].new if found.runs else found.shared or not old.keys.numbers()):
            unsure = found.runs[0].new if found.runs else many
            why = f"lines of before were trimmed and no archive has them: its first {unsure:,} may be some of those"
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
            save_rewrite(self._ledger, self._stream, self._found(generation, STOPPED, why))
        raise error

    def _deadline(self) -> str:
        """Until when a person must have said what a file is, in words: it lies there until rotations delete it."""
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

    # -- what follows ----------------------------------------------------------------------------------------

    def _sorted_out(self, generation: Generation, moved: Sequence[Moved]) -> tuple[list[Stretch], list[_Moving]]:
        """What of the moved bytes forward passes over, each with where it was first sent; and the mirror's ranges."""
        name, of = self._tail.name, self._tail.register.carried(generation.rewrites)
        earlier = stretches_of(self._ledger, self._stream, name, of)
        ours = sorted(
            (span for span in ranges_of(self._ledger, self._stream, name) if span.generation == of),
            key=lambda span: span.start,
        )
        begins, ranges = [span.start for span in ours], dict[int, _Moving]()
        stretches = []
        for part in moved:
            shift = part.start - part.of_start
            at, end = part.of_start, part.of_start + part.end - part.start
            n = max(0, bisect_right(begins, at) - 1)
            while n < len(ours) and ours[n].start < end:
                span = ours[n]
                if span.end > at:
                    ranges.setdefault(n, _Moving(span)).add(max(at, span.start), min(end, span.end), shift)
                    stretches += _mapped(at, max(at, span.start), shift, of, earlier)
                    at = max(at, span.end)
                n += 1
            stretches += _mapped(at, end, shift, of, earlier)
        return stretches, [*ranges.values()]

    def _save(
        self, generation: Generation, found: Rewrite, stretches: Sequence[Stretch], moving: Sequence[_Moving]
    ) -> None:
        """Writes into the ledger, at once, what was found of a file. Raises _Changed: it is another by now."""
        with self._tail.lock:
            if found.how == ALIGNED and (generation.content is None or generation.changed() is not None):
                raise _Changed
            placed = [(told, told.parts(generation)) for told in moving]
            records = self._tail.settle(generation, aligned=found.how == ALIGNED)
            with self._ledger.transaction():
                for told, parts in placed:
                    drop_range(self._ledger, self._stream, told.span)
                    for part in parts:
                        add_range(self._ledger, self._stream, part)
                marked = [told._replace(crc=generation.sum_of(told.start, told.end)) for told in stretches]
                save_stretches(self._ledger, self._stream, self._tail.name, generation.number, marked)
                save_rewrite(self._ledger, self._stream, found)
                for known in records:
                    save_generation(self._ledger, self._stream, self._tail.name, known)
            reached("forward.align.after")
            self._stop = None
            if said := in_words(found, found.at, generation.why):
                self._tail.notices.append(said)


class _Changed(Exception):
    """A file changed while it was looked at: another look tells."""


class _Moving:
    """A range of the mirror's whose lines stand in another file by now, some of them or all."""

    def __init__(self, span: Range) -> None:
        self.span = span
        self._parts: list[tuple[int, int, int]] = []

    def add(self, start: int, end: int, shift: int) -> None:
        """Bytes `start` to `end` of before stand `shift` bytes further on."""
        self._parts.append((start, end, shift))

    def parts(self, generation: Generation) -> list[Range]:
        """Makes the ranges that take the place of this one: where its lines stand now, and those that are gone."""
        found: list[Range] = []
        at = self.span.start
        for entry, length in self.span.entries:
            shift = next((by for a, b, by in self._parts if a <= at and at + length <= b), None)
            start = at if shift is None else at + shift
            number = self.span.generation if shift is None else generation.number
            last = found[-1] if found else None
            if last is not None and (last.generation, last.end) == (number, start):
                last.entries.append((entry, length))
                found[-1] = replace(last, end=start + length)
            else:
                found.append(Range(self.span.name, number, start, start + length, b"", [(entry, length)]))
            at += length
        return [self._digested(part, generation) for part in found]

    def _digested(self, part: Range, generation: Generation) -> Range:
        if part.generation != generation.number:
            alone = (part.start, part.end) == (self.span.start, self.span.end)
            return replace(part, digest=self.span.digest if alone else b"")
        return replace(part, digest=range_digest(generation.read(part.end - part.start, part.start)))


def _may_go_on(found: Aligned, old: Sequence[int], new: Sequence[int]) -> bool:
    """Whether a file ends amid the lines of before: all of it, or its last run."""
    if not found.runs:
        return bool(found.shared) and found.shared == len(new)
    last = found.runs[-1]
    return last.new + last.count == len(new) and last.old + last.count < len(old)


def _moved(runs: Sequence[Run], starts: Sequence[int], ends: Sequence[int], offsets: Sequence[int]) -> Iterator[Moved]:
    """The bytes of runs of messages, as far as they stand one behind the other in both files."""
    for run in runs:
        begin = n = 0
        for n in range(1, run.count + 1):
            if (
                n < run.count
                and ends[run.new + n - 1] == starts[run.new + n]
                and (offsets[run.old + n] - offsets[run.old + n - 1] == starts[run.new + n] - starts[run.new + n - 1])
            ):
                continue
            yield Moved(starts[run.new + begin], ends[run.new + n - 1], offsets[run.old + begin])
            begin = n


def _mapped(start: int, end: int, shift: int, of: int, earlier: Sequence[Stretch]) -> list[Stretch]:
    """Stretches for bytes of the generation before, `shift` further on now: some were an earlier one's themselves."""
    found: list[Stretch] = []
    at = start
    for stretch in earlier[max(0, bisect_right(earlier, (start, 1 << 62, 0, 0)) - 1) :]:
        if stretch.start >= end:
            break
        if stretch.end <= at:
            continue
        begin, stop = max(at, stretch.start), min(end, stretch.end)
        if begin > at:
            found.append(Stretch(at + shift, begin + shift, of, at))
        found.append(Stretch(begin + shift, stop + shift, stretch.of, stretch.of_start + begin - stretch.start))
        at = stop
    if at < end:
        found.append(Stretch(at + shift, end + shift, of, at))
    return found
