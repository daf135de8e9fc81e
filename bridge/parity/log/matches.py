"""Matches lines that no file-born entry claimed with the lines that Redis-born entries make, in order. Pure.

Nothing names the places of such lines, so both sequences are aligned by content.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from bridge.core.codecs import Codec
from bridge.core.codecs.multiline import MultilineCodec
from bridge.core.model import ZERO_ID, EntryId, parse_id
from bridge.parity.log.claims import FIRST_WINDOW, RUN, WIDEST_WINDOW
from bridge.parity.log.items import (
    ComparedFile,
    ExtraLine,
    Findings,
    MissingLine,
    OverlongLine,
    PassedLines,
    size_of,
)
from bridge.parity.log.overflow_queue import OverflowQueue
from bridge.parity.log.sequence_diff import Pair, align

MATCH_PAGE = 1000
TRUSTED_SHARE = 5
"""Where less than one line in so many agrees, only runs of agreeing lines are trusted."""

Line = tuple[ComparedFile, bytes, int, int, int, bytes]
"""A line that waits for its match: its file, its bytes, place, number, the shift that holds there, and what follows
it."""


class LineMatches:
    """Matches the lines of one file that the mirror writes, with its rotated pieces, with Redis-born entries.

    `due` is the last entry that must have its line.
    """

    def __init__(self, name: str, codec: Codec, due: EntryId, sink: Findings) -> None:
        self.name = name
        self.entries = OverflowQueue()
        self._codec = codec
        self._continued = codec if isinstance(codec, MultilineCodec) else None
        self._due = due
        self._sink = sink
        self._lines: list[Line] = []
        self._told = 0
        """How many of the lines that wait are known to be messages."""
        self._window = FIRST_WINDOW
        self._gap = 1
        self._before = -1
        """The place of the last line that matched."""
        self._broken: deque[Line] = deque(maxlen=MATCH_PAGE)
        """Lines that are no messages, of late: one of them may be what became of an entry's line."""
        self._open: deque[tuple[bytes, bytes, bool]] | None = None
        self._open_lines: dict[bytes, int] = {}
        self.late: dict[bytes, list[MissingLine]] = {}
        """Entries that came late, by their lines, which may stand anywhere."""
        self.matched_to: EntryId = ZERO_ID
        """The last entry whose line was found where it is due."""
        self.early = 0
        """How many entries have their lines behind the checkpoint, where the next comparison finds them again."""
        self.early_from: EntryId | None = None
        """The first entry whose line was found behind the checkpoint."""
        self._early_to: EntryId = ZERO_ID
        """The last entry whose line was found behind the checkpoint."""
        self.settled: tuple[ComparedFile, int, int] | None = None
        """File, place and line number behind the last line that agreed."""

    @property
    def at_rest(self) -> bool:
        """Whether every line passed to the matches so far has its entry."""
        return not (self._lines or self._open or any(self.late.values()))

    @property
    def first_left(self) -> EntryId | None:
        """The first Redis-born entry that has no match yet, as its line was not passed; None: there is none."""
        return parse_id(self.entries.peek(1)[0][0]) if self.entries else None

    def passed(self, passed: PassedLines) -> None:
        """Matches unclaimed lines, in file order, with Redis-born entries; lines that are not due come last."""
        if self._continued is not None:
            passed = grouped(passed, self._continued)
        if not passed.due:
            self._finish_due()
            self._not_due(passed)
            return
        self.due_again()
        if not self._lines:
            at = 0
            while at < len(passed.lines):
                wanted = self.entries.peek(MATCH_PAGE)[1]
                if not wanted or passed.lines[at : at + len(wanted)] != wanted[: len(passed.lines) - at]:
                    break
                count = min(len(wanted), len(passed.lines) - at)
                last = at + count - 1
                self._match(count, (passed.file, passed.lines[last], passed.places[last], passed.numbers[last], 0, b""))
                size = sum(map(len, passed.lines[at : at + count])) + count
                self._sink.accounted(passed.file, "mirrored", size)
                for n in range(at, at + count) if passed.tails else ():
                    self._left_over(passed.file, passed.tails.get(n, b""))
                at += count
            if at == len(passed.lines):
                return
        else:
            at = 0
        file, shift, tails = passed.file, passed.shift, passed.tails
        self._lines += [
            (file, passed.lines[n], passed.places[n], passed.numbers[n], shift, tails.get(n, b""))
            for n in range(at, len(passed.lines))
        ]  # fmt: skip
        self._work(final=False)

    def finish(self) -> None:
        """Ends the matches after the last line and entry: Redis-born entries left are missing, or on their way."""
        self._finish_due()
        if self.entries or self._open:
            self._take_broken(self._before, 1 << 62)
        if self._open is not None:
            for entry_id, line, arrived in self._open:
                if arrived:
                    self._came_early(entry_id, line)
                else:
                    self._absent(entry_id, line)
        for ids, lines in self.entries.drain():
            for entry_id, line in zip(ids, lines, strict=True):
                self._absent(entry_id, line)
        self.entries.close()

    def _absent(self, entry_id: bytes, line: bytes, high: int = 1 << 62) -> None:
        """Reports a Redis-born entry without a match before the place `high`: missing, or still on its way."""
        at, row = parse_id(entry_id), self._codec.decode((line,)).rows[0]
        if isinstance(row, str):  # it can be no line
            self._sink.without_line(entry_id)
        elif at > self._due:
            self._sink.waiting(at)
        else:
            between = (self._before, high)
            self._sink.missing(MissingLine(self.name, entry_id, row, line, gap=self._gap, between=between))

    # -- lines that are due ----------------------------------------------------------------------------------

    def _match(self, count: int, last: Line) -> None:
        self._agreed_at(last)
        ids, lines = self.entries.pop(count)
        self.matched_to = parse_id(ids[-1])
        self._sink.matched(self.name, ids, lines)

    def _left_over(self, file: ComparedFile, tail: bytes) -> None:
        """Counts as quarantined the text behind a matched line that begins no message and belongs to none."""
        if tail:
            self._sink.accounted(file, "quarantined", len(tail))
            self._sink.aside(sum(1 for line in tail.split(b"\n") if line))

    def _agreed_at(self, line: Line) -> None:
        file, text, self._before, number, *_ = line
        self.settled = file, self._before + len(text) + 1, number + 1
        self._gap += 1

    def _finish_due(self) -> None:
        self._work(final=True)

    def _drop_the_rest(self) -> None:
        """Drops from the lines to be matched those that are no messages: they are in quarantine, or empty."""
        fresh = self._lines[self._told :]
        if not fresh:
            return
        rows = self._codec.decode([line[1] for line in fresh]).rows
        good = [line for line, row in zip(fresh, rows, strict=True) if not isinstance(row, str)]
        broken = [line for line, row in zip(fresh, rows, strict=True) if isinstance(row, str) and line[1]]
        self._broken += broken
        self._sink.aside(len(broken))
        for line, row in zip(fresh, rows, strict=True):
            if isinstance(row, str) and line[1]:
                self._sink.kept(line[0], line[2], line[1])
                self._left_over(line[0], line[5])
            elif isinstance(row, str):
                self._sink.accounted(line[0], "empty", 1 + len(line[5]))
        self._lines[self._told :] = good
        self._told = len(self._lines)

    def _work(self, *, final: bool) -> None:
        while self._lines:
            self._drop_the_rest()
            wanted = self.entries.peek(MATCH_PAGE)[1]
            same = 0
            for line, other in zip(self._lines, wanted, strict=False):
                if line[1] != other:
                    break
                same += 1
            if same:
                self._match(same, self._lines[same - 1])
                for line in self._lines[:same]:
                    self._sink.accounted(line[0], "mirrored", size_of(line[1]))
                    self._left_over(line[0], line[5])
                self._forget(same)
                continue
            if not self._lines or (len(self._lines) < self._window and not final):
                return
            self._differ(final=final)

    def _forget(self, count: int) -> None:
        del self._lines[:count]
        self._told -= count

    def _differ(self, *, final: bool) -> None:
        """Finds where lines and Redis-born entries match again, after the first line differs from the first entry."""
        lines = self._lines[: self._window]
        texts = [line[1] for line in lines]
        ids, wanted = self.entries.peek(4 * self._window)
        whole = final and len(self._lines) <= self._window and len(ids) < 4 * self._window  # all of both
        pairs = align(texts, wanted)
        if not whole:
            few = TRUSTED_SHARE * len(pairs) < len(texts)
            pairs = up_to_a_run(pairs) if few else pairs
            if not pairs and self._window < WIDEST_WINDOW:
                self._window *= 8
                return
        if not pairs and self._skip_to(texts):
            return
        upto = len(lines) if whole or not pairs else pairs[-1][0] + 1
        self._settle(pairs, lines[:upto], ids, wanted)
        self._window = FIRST_WINDOW

    def _settle(self, pairs: Sequence[Pair], lines: Sequence[Line], ids: list[bytes], wanted: list[bytes]) -> None:
        """Settles lines and entries up to the last matched pair: pairs agree, the rest is classified later."""
        entries = pairs[-1][1] + 1 if pairs else 0
        i = j = 0
        for a, b in [*pairs, (len(lines), entries)]:
            high = lines[a][2] if a < len(lines) else 1 << 62
            for k in range(i, a):
                if not self._is_late(lines[k][0], lines[k][1]):
                    self._sink.extra(self._as_extra(lines[k]))
            if b > j:
                self._take_broken(self._before, high)
            for k in range(j, b):
                self._absent(ids[k], wanted[k], high)
            if a < len(lines):
                self._agreed_at(lines[a])
                self._sink.accounted(lines[a][0], "mirrored", size_of(lines[a][1]))
                self._left_over(lines[a][0], lines[a][5])
                self.matched_to = parse_id(ids[b])
            i, j = a + 1, b + 1
        self._sink.matched(self.name, [ids[j] for _, j in pairs], [wanted[j] for _, j in pairs])
        self.entries.pop(entries)
        self._forget(len(lines))

    def _take_broken(self, low: int, high: int) -> None:
        """Reports as extra the lines that are no messages, where matches for entries are missing.

        Such a line may have been the line of an entry.
        """
        for line in [*self._broken]:
            if low < line[2] < high:
                self._broken.remove(line)
                self._sink.extra(self._as_extra(line, broken=True))

    def _skip_to(self, texts: list[bytes]) -> bool:
        """Skips a stretch of entries without lines, up to the first run of entries that match lines here.

        False: there is no such run, and nothing is skipped.
        """
        places = {text: i for i, text in reversed([*enumerate(texts)])}
        at, runs = 0, 0
        for wanted in self.entries.look():
            for line in wanted:
                at += 1
                runs = runs + 1 if line in places else 0
                if runs == RUN:
                    left = at - RUN
                    while left:
                        ids, lines = self.entries.pop(min(left, MATCH_PAGE))
                        left -= len(ids)
                        for entry_id, raw in zip(ids, lines, strict=True):
                            self._absent(entry_id, raw)
                    return True
        return False

    def _as_extra(self, line: Line, *, broken: bool = False) -> ExtraLine:
        file, text, place, number, shift, tail = line
        return ExtraLine(file, place, number, text + tail, place - shift, self._gap, broken)

    # -- lines that are not ----------------------------------------------------------------------------------

    def _not_due(self, passed: PassedLines) -> None:
        """Matches entries with lines behind the checkpoint; the other lines there are not carried yet: in flight."""
        if self._open is None:
            self._open = deque()
        here, known = self._open, self._open_lines
        fresh: list[bytes] = []
        for line in passed.lines:
            if len(here) < MATCH_PAGE:
                ids, lines = self.entries.pop(MATCH_PAGE)
                here += [(entry_id, text, False) for entry_id, text in zip(ids, lines, strict=True)]
                for text in lines:
                    known[text] = known.get(text, 0) + 1
            if known.get(line):
                self._arrive(line)
                self._sink.accounted(passed.file, "mirrored", size_of(line))
            elif not self._is_late(passed.file, line):
                fresh.append(line)
                self._sink.accounted(passed.file, "waiting" if line else "empty", size_of(line))
        for tail in passed.tails.values():
            self._sink.accounted(passed.file, "waiting", len(tail))
        rows, times = self._codec.decode(fresh)
        moments = [time for row, time in zip(rows, times, strict=True) if not isinstance(row, str)]
        if moments:
            self._sink.in_flight(len(moments), min((time for time in moments if time > 0), default=0))

    def due_again(self) -> None:
        """Switches the matches from lines behind the checkpoint back to due lines, as one follows in a later file.

        The mirror wrote into a file that was taken for ended already. What it wrote there is behind us for good, and
        the entries whose lines were not among it wait for later ones.
        """
        if self._open is None:
            return
        left = [(entry_id, line) for entry_id, line, arrived in self._open if not arrived]
        for entry_id, line, arrived in self._open:
            if arrived:
                self._sink.matched(self.name, [entry_id], [line])
        self.entries.put_back([entry_id for entry_id, _ in left], [line for _, line in left])
        self.matched_to = max(self.matched_to, self._early_to)
        self._open, self._open_lines = None, {}
        self.early, self.early_from = 0, None

    def _arrive(self, line: bytes) -> None:
        here = self._open
        if here is None:
            return
        i = next(i for i, (_, text, arrived) in enumerate(here) if text == line and not arrived)
        here[i] = (here[i][0], line, True)
        self._open_lines[line] -= 1
        while here and here[0][2]:
            entry_id, text, _ = here.popleft()
            self._came_early(entry_id, text)
        if len(here) >= 2 * MATCH_PAGE and not here[0][2]:
            entry_id, text, _ = here.popleft()
            self._open_lines[text] -= 1
            self._absent(entry_id, text)

    def _is_late(self, file: ComparedFile, line: bytes) -> bool:
        """Whether a line matches an entry that came late; if so, the entry is reported as found."""
        waiting = self.late.get(line)
        if not waiting:
            return False
        late = waiting.pop(0)
        self._sink.accounted(file, "carried" if late.home >= 0 else "mirrored", size_of(line))
        self._sink.came_late(late)
        return True

    def _came_early(self, entry_id: bytes, line: bytes) -> None:
        self.early_from = self.early_from or parse_id(entry_id)
        self._early_to = parse_id(entry_id)
        self.early += 1
        self._sink.matched(self.name, [entry_id], [line])


def up_to_a_run(pairs: list[Pair]) -> list[Pair]:
    """Returns the matched pairs up to the last run of neighbours that is long enough to be trusted. Pure."""
    run = 0
    for n in range(len(pairs) - 1, -1, -1):
        i, j = pairs[n]
        run = run + 1 if n + 1 < len(pairs) and pairs[n + 1] == (i + 1, j + 1) else 1
        if run == RUN:
            return pairs[: n + RUN]
    return []


def grouped(passed: PassedLines, codec: MultilineCodec) -> PassedLines:
    """Groups passed lines for matching: lines that begin no message become the tails of those that do. Pure."""
    begins = codec.begins([line if not isinstance(line, OverlongLine) else b"" for line in passed.lines])
    starts = [i for i, first in enumerate(begins) if first or i == 0]
    tails = {
        n: b"".join(b"\n" + line for line in passed.lines[i + 1 : j])
        for n, (i, j) in enumerate(zip(starts, [*starts[1:], len(begins)], strict=True)) if j - i > 1
    }  # fmt: skip
    return PassedLines(
        passed.file, [passed.lines[i] for i in starts], [passed.places[i] for i in starts],
        [passed.numbers[i] for i in starts], passed.shift, passed.due, tails,
    )  # fmt: skip
