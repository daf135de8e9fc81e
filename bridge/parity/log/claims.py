"""Claims: file-born entries claim the lines of one source by their origins, and must equal those lines. Pure.

Both come in order, so two pointers are enough. Where they disagree, the next place is searched at which they agree
again: further on at the same places, or shifted, where somebody cut or put in bytes. `classify` sorts out later, by
content, the lines and entries between.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence, Set
from dataclasses import replace
from itertools import islice
from operator import lt
from pathlib import PurePath

from bridge.core.codecs import Codec
from bridge.core.codecs.multiline import MultilineCodec
from bridge.core.model import Row
from bridge.parity.log.items import SHIFT, ComparedFile, ExtraLine, Findings, MissingLine, OverlongLine, PassedLines
from bridge.parity.log.line_window import LineWindow, around
from bridge.parity.log.page_columns import OddFields
from bridge.parity.log.sequence_diff import align, ascending

WAITING_ENTRIES = 8
"""How many entries wait for those behind: an entry in a wrong place is recognized by the entries that follow."""
RUN = 3
"""How many entries in a row must agree with lines before a place counts as found again."""
FIRST_WINDOW, WIDEST_WINDOW = 64, 8192
"""In how many entries the place is searched where both agree again, at first and at most."""
FIRST_ENTRIES, MOSTLY = 9, 0.8
"""How many entries are tried first; and which share of those equal by content must be in place to count as unmoved."""
CLAIMS_AT_ONCE, GAP_ENTRIES, DOUBT = 4096, 100_000, 64

Unit = tuple[int, int, bytes]
"""A message in a window of lines: the indexes of its first line and of the line behind its last, and its bytes."""


class OriginClaims:
    """Claims one source's lines for file-born entries; `files`: by generation, those behind the newest known last."""

    def __init__(self, name: str, files: Sequence[ComparedFile], codec: Codec, sink: Findings, since: int = -1) -> None:
        self.name = name
        self._files = list(files)
        self._all = {file.generation: file for file in files}
        self._codec = codec
        self._continued = codec if isinstance(codec, MultilineCodec) else None
        self._sink = sink
        self._places: list[int] = []
        self._rows: list[Row] = []
        self._ids: list[bytes] = []
        self._here: LineWindow | None = None
        self._last = self._last_own = since - 1
        """The place of the last entry that was looked at; and of the last entry that is not marked late."""
        self.late: set[bytes] = set()
        """Among the entries that wait, the IDs of those marked late."""
        self._shift = 0
        self._window = FIRST_WINDOW
        self._stride = CLAIMS_AT_ONCE  # entries tried at once: few behind a difference, the next may be near
        self._gap = 0
        self.gone: set[int] = set()  # generations that turned out to be in none of the files
        self.first_ids: dict[int, bytes] = {}  # the first entry of each generation
        self.claimed_to = since
        """The place behind the last line that an entry claimed; at first, where lines before were claimed earlier."""
        self.settled: tuple[ComparedFile, int, int] | None = None
        """The file, place and line number behind the last line that had to be there."""

    def add(self, places: list[int], rows: list[Row], ids: list[bytes]) -> None:
        """Adds file-born entries of a source, in stream order, which claim the lines at their origins."""
        self._places += places
        self._rows += rows
        self._ids += ids
        if len(self._places) > WAITING_ENTRIES:
            self._work(final=False)

    def settle(self) -> bool:
        """Claims lines for all waiting entries, if each one's line is plainly in place; False: nothing was done."""
        places, here = self._places, self._here
        if not places:
            return True
        if here is None or here.file.doubtful or places[-1] >> SHIFT != here.file.generation:
            return False
        if places[0] < here.file.base or not all(map(lt, [self._last, *places], places)):
            return False
        here.trim()
        if plain := self._among_others(here, 0, len(places)):
            self._take(len(places))
        return plain

    def finish(self) -> None:
        """Ends a source's claims after the last entry: the lines left in its files were claimed by no entry."""
        self._work(final=True)
        self._enter(1 << 60)

    # -- entries ---------------------------------------------------------------------------------------------

    def _work(self, *, final: bool) -> None:
        while self._places:
            self._drop_strays()
            usable = len(self._places) - (0 if final else WAITING_ENTRIES)
            if usable <= 0:
                return
            generation = self._places[0] >> SHIFT
            end = bisect_left(self._places, (generation + 1) << SHIFT)
            self.first_ids.setdefault(generation, self._ids[0])
            closed = final or end < len(self._places)
            usable = end if closed else usable
            found = self._enter(generation)
            if found and self._here is not None and self._here.file.doubtful and self._last >> SHIFT != generation:
                if end < DOUBT and not closed:
                    return
                found = self._is_it(self._here, end)
            if not found:
                self._sink.unverifiable(end, f"generation {generation} of {self.name} is gone")
                self._take(end)
                continue
            if not self._claim(usable, end, closed=closed):
                return

    def _take(self, count: int) -> None:
        if count:
            self._last = max(self._last, self._places[count - 1])
            own = self._last
            if self.late:
                own = max((self._places[i] for i in range(count) if self._ids[i] not in self.late), default=-1)
                self.late.difference_update(self._ids[:count])
            self._last_own = max(self._last_own, own)
            del self._places[:count], self._rows[:count], self._ids[:count]

    def _drop_strays(self) -> None:
        """Reports waiting entries whose claims are out of order: the fewest that leave the others ascending."""
        places = self._places
        if places[0] > self._last and all(map(lt, places, islice(places, 1, None))):
            return
        own = [i for i, raw in enumerate(self._ids) if raw not in self.late and places[i] > self._last_own]
        right = {own[n] for n in ascending([places[i] for i in own])}
        ahead = [i for i, raw in enumerate(self._ids) if places[i] > self._last and (i in right or raw in self.late)]
        kept = [ahead[n] for n in ascending([places[i] for i in ahead])]
        stays = set(kept)
        for i in range(len(places)):
            if i not in stays:
                self._missing(i, stray=True, excused=i in right or self._ids[i] in self.late)
                self.late.discard(self._ids[i])
        self._places, self._rows, self._ids = (
            [places[i] for i in kept], [self._rows[i] for i in kept], [self._ids[i] for i in kept],
        )  # fmt: skip

    def _missing(self, i: int, *, stray: bool = False, excused: bool = False) -> None:
        row, place, here = self._rows[i], self._places[i], self._here
        if stray and excused and place >> SHIFT not in self._all:
            self._sink.unverifiable(1, f"generation {place >> SHIFT} of {self.name} is gone")
            return
        if here is not None and not stray and place + self._shift > max(here.places[-1:], default=-1) and here.damage():
            self._sink.unverifiable(1, here.damage())
            return
        line = self._codec.encode(row) if self._codec.invertible and not isinstance(row, OddFields) else None
        self._sink.missing(MissingLine(
            self.name, self._ids[i], row, line if isinstance(line, bytes) else None, place,
            self._all.get(place >> SHIFT), self._gap, stray=stray, excused=excused or self._ids[i] in self.late,
        ))  # fmt: skip

    # -- files -----------------------------------------------------------------------------------------------

    def _enter(self, generation: int) -> bool:
        """Moves the claims to a generation's file, and passes on lines left in earlier files; False: no such file."""
        while self._here is not None or self._files:
            here = self._here
            if here is None and self._files[0].generation > generation:
                return False
            if here is None:
                self._here, self._shift = LineWindow(self._files.pop(0)), 0
                continue
            if here.file.generation >= generation:
                return here.file.generation == generation
            while here.left():
                self._pass(here, len(here.lines))
            self._here = None
        return False

    def _is_it(self, here: LineWindow, count: int) -> bool:
        """Whether a doubtful file holds any of the first messages that claim its lines; else the file is a new one."""
        here.ahead(4 * DOUBT)
        texts = [text for _, _, text in here.units(4 * DOUBT, self._continued)]
        rows = {row for row in self._codec.decode(texts).rows if isinstance(row, tuple)}
        if any(row in rows for row in self._rows[: min(count, DOUBT)]):
            return True
        self.gone.add(here.file.generation)
        if here.file.name == PurePath(self.name).name:  # else it is no piece that anybody knows
            newest = max(file.generation for file in [here.file, *self._files])
            self._files.append(replace(here.file, generation=newest + 1, due=0, doubtful=False))
        self._here = None
        return False

    def _pass(self, here: LineWindow, end: int, without: Set[int] = frozenset()) -> None:
        """Passes on as unclaimed the window's lines up to the `end`-th, except those in `without`."""
        a = here.at
        due = bisect_left(here.places, max(here.file.base + here.file.due, self.claimed_to), a, end)
        if due > a and not isinstance(here.lines[due - 1], OverlongLine):
            self.settled = here.file, here.places[due - 1] + len(here.lines[due - 1]) + 1, here.number(due)
        for i, j, is_due in ((a, due, True), (due, end, False)):
            chosen = [k for k in range(i, j) if k not in without]
            if chosen:
                lines, places = [here.lines[k] for k in chosen], [here.places[k] for k in chosen]
                numbers = [here.number(k) for k in chosen]
                self._sink.passed(PassedLines(here.file, lines, places, numbers, self._shift, is_due))
        here.at = end

    # -- claiming --------------------------------------------------------------------------------------------

    def _claim(self, usable: int, end: int, *, closed: bool) -> bool:
        """Claims lines for up to `usable` entries of the current file; False: finding the place takes more entries."""
        here, at = self._here, 0
        if here is None:
            raise AssertionError("no file")
        while at < usable:
            if not here.left():
                self._gap += 1
                for i in range(at, usable):
                    self._missing(i)
                at = usable
                break
            a, step = here.at, min(usable - at, self._stride)
            part = min(step, len(here.lines) - a)
            places, lines = self._places[at : at + part], here.lines[a : a + part]
            if here.places[a : a + part] == places and self._agree(lines, self._rows[at : at + part]):
                self._claimed(here, [*range(a, a + part)], a + part)
                at += part
                self._stride = min(2 * self._stride, CLAIMS_AT_ONCE)
                continue
            good, sound = self._scattered(here, at, at + step)
            at += good
            self._stride = min(2 * self._stride, CLAIMS_AT_ONCE) if sound else FIRST_ENTRIES
            if not sound:
                self._take(at)
                return self._resync(here, end - at, closed=closed)
        self._take(at)
        return True

    def _agree(self, lines: list[bytes], rows: list[Row]) -> bool:
        return self._continued is None and self._codec.agree(lines, rows)

    def _claimed(
        self, here: LineWindow, mine: list[int], end: int, broken: Set[int] = frozenset(), count: int | None = None
    ) -> None:
        """Reports lines as claimed by `count` messages, passes on others up to the `end`-th; leaves out `broken`."""
        messages = len(mine) if count is None or not mine else count
        a, lines, places = here.at, here.lines, here.places
        if mine:
            self.claimed_to = places[mine[-1]] + len(lines[mine[-1]]) + 1
        if len(mine) == end - a:
            here.at = end
            self.settled = here.file, self.claimed_to, here.number(end)
            self._sink.claimed(here.file, lines[a:end], places[a:end], messages)
            return
        self._pass(here, end, broken | set(mine))
        if mine:
            self._sink.claimed(here.file, [lines[k] for k in mine], [places[k] for k in mine], messages)

    def _scattered(self, here: LineWindow, at: int, end: int) -> tuple[int, bool]:
        """Claims lines that stand among others; returns how many entries found their lines, and whether all did."""
        here.trim()
        if self._among_others(here, at, end):
            return end - at, True
        chosen: list[list[int]] = []
        i, sound = 0, True
        for n in range(at, end):
            place = self._places[n] + self._shift
            while (i := bisect_left(here.places, place, i)) == len(here.places):
                if not chosen and i > CLAIMS_AT_ONCE:
                    self._pass(here, i)
                    here.trim()
                    i = 0
                if not here.more():
                    break
            if i == len(here.places) or here.places[i] != place:
                sound = False
                break
            row = self._rows[n]
            wanted = row[3].count(b"\n") if self._continued is not None and not isinstance(row, OddFields) else 0
            chosen.append(here.followed(i, wanted, self._continued))
            i = chosen[-1][-1] + 1
        texts = [here.text(found) for found in chosen]
        rows = self._rows[at : at + len(chosen)]
        good = len(chosen)
        if not self._codec.agree(texts, rows):
            decoded = self._codec.decode(texts).rows
            good = next(k for k in range(good) if decoded[k] != rows[k])
            sound = False
        if good:
            self._claimed(here, [k for found in chosen[:good] for k in found], chosen[good - 1][-1] + 1, count=good)
        return good, sound

    def _among_others(self, here: LineWindow, at: int, end: int) -> bool:
        """Claims lines for all entries in the commonest case: every line is in place and agrees. Else does nothing."""
        last = self._places[end - 1] + self._shift
        while (not here.places or here.places[-1] < last) and len(here.lines) < GAP_ENTRIES and here.more():
            pass
        upto = bisect_right(here.places, last)
        index = dict(zip(here.places[:upto], range(upto), strict=True))
        shift = self._shift
        found = [index.get(place + shift, -1) for place in self._places[at:end]]
        if -1 in found or not self._agree([here.lines[i] for i in found], self._rows[at:end]):
            return False
        self._claimed(here, found, found[-1] + 1)
        return True

    # -- finding the place again -----------------------------------------------------------------------------

    def _resync(self, here: LineWindow, end: int, *, closed: bool) -> bool:
        """Finds the place where claims and lines agree again after a difference; False: wait for more entries."""
        looked = False
        while True:
            width = min(self._window, end)
            whole = closed and width == end
            if width < self._window and not closed:
                return False
            count = 4 * (self._window if looked else FIRST_ENTRIES)  # mostly it is near
            here.ahead(count)
            here.trim()
            units = here.units(count, self._continued)
            decoded = self._codec.decode([text for _, _, text in units]).rows
            places = [here.places[a] for a, _, _ in units]
            found = (
                self._again(decoded, places, width, whole=whole) if looked else self._unmoved(decoded, places, width)
            )
            if found is None and not looked:
                looked = True
                continue
            if found is None and not whole and self._window < WIDEST_WINDOW:
                self._window *= 8
                continue
            if found is None:
                found = (width, len(units), self._shift) if whole else (max(1, width // 2), 0, self._shift)
            entries, upto, shift = found
            self._bridge_gap(here, units[:upto], decoded[:upto], entries)
            self._shift, self._window = shift, FIRST_WINDOW
            return True

    def _unmoved(self, decoded: list[Row | str], places: list[int], width: int) -> tuple[int, int, int] | None:
        """Goes on with claims behind a line altered in its place, if the next lines stand where they should."""
        at = {place: i for i, place in enumerate(places)}
        found = [at.get(place + self._shift, -1) for place in self._places[: min(width, FIRST_ENTRIES)]]
        near = [j for j, i in enumerate(found) if j and i >= 0 and decoded[i] == self._rows[j]]
        return (near[0], found[near[0]], self._shift) if found[0] >= 0 and len(near) >= RUN else None

    def _again(
        self, decoded: list[Row | str], places: list[int], width: int, *, whole: bool
    ) -> tuple[int, int, int] | None:
        """Finds the nearest entry, line and shift at which claims and lines agree again; None: there is none."""
        at = {place: i for i, place in enumerate(places)}
        rows, wanted = self._rows[:width], self._places[:width]

        def agrees(j: int, shift: int) -> bool:
            i = at.get(wanted[j] + shift, -1)
            return i >= 0 and decoded[i] == rows[j]

        def runs(j: int, shift: int) -> bool:
            last = min(j + RUN, width) if whole else j + RUN
            return last <= width and all(agrees(k, shift) for k in range(j, last))

        unmoved = (j for j in range(1, width) if runs(j, self._shift))
        best = next(unmoved, width)
        pairs = align(decoded, rows)
        for i, j in pairs:
            if j < best and runs(j, places[i] - wanted[j]):
                return j, i, places[i] - wanted[j]
        if best == width:  # differences stand close together: do most of those that agree stand where they should?
            stay = [j for i, j in pairs if places[i] - wanted[j] == self._shift]
            if len(stay) >= RUN and len(stay) >= MOSTLY * len(pairs):
                best = next((j for j in stay if j), width)
        return (best, at[wanted[best] + self._shift], self._shift) if best < width else None

    def _bridge_gap(self, here: LineWindow, units: list[Unit], decoded: list[Row | str], entries: int) -> None:
        """Settles claims in a gap of disagreement: entries and lines equal by content agree, the rest is reported."""
        self._gap += 1
        begun = passed = 0
        for i, j in [*align(decoded, self._rows[:entries]), (len(units), entries)]:
            at = {here.places[a]: (a, b, text) for a, b, text in units[passed:i]}
            broken: set[int] = set()
            for k in range(begun, j):
                self._missing(k)
                unit = around(at, self._places[k] + self._shift, self._rows[k], self._codec)
                if unit is not None and unit[2] and isinstance(self._codec.decode(unit[2:]).rows[0], str):
                    del at[here.places[unit[0]]]  # several entries may be of one line
                    self._extra(here, unit)  # no message: perhaps what became of the entry's line
                    broken |= {*range(*unit[:2])}
            mine = list(range(*units[i][:2])) if i < len(units) else []
            end = units[i][1] if mine else units[-1][1] if units else here.at
            if mine:
                self._pass(here, mine[0], broken)
                self._shift = here.places[mine[0]] - self._places[j]
            self._claimed(here, mine, end, broken, 1)
            begun, passed = j + 1, i + 1
        self._take(entries)

    def _extra(self, here: LineWindow, unit: Unit) -> None:
        place = here.places[unit[0]]
        self._sink.aside(1)
        self._sink.kept(here.file, place, unit[2])
        self._sink.extra(ExtraLine(here.file, place, here.number(unit[0]), unit[2], place - self._shift, broken=True))
