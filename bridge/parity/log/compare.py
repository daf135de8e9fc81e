"""Compares a stream with the log files it is kept in, in one walk side by side (DESIGN §6.5). Pure.

Entries come in pages, in stream order; files are read as far as they are needed. What agrees is counted, hashed and
forgotten; what does not is kept, up to `MOST_DIFFERENCES`, and classified at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from bridge.core.codecs import Codec
from bridge.core.model import HIGHEST_ID, ORIGIN_FIELD, ZERO_ID, EntryId, Row, before, parse_id, parse_origin
from bridge.parity.account import ByteAccount
from bridge.parity.log.agreement_digest import AgreementDigest
from bridge.parity.log.claims import OriginClaims
from bridge.parity.log.classify import FreshLook, classify, look_again
from bridge.parity.log.expected_line import ExpectedLine
from bridge.parity.log.explained import explained
from bridge.parity.log.items import SHIFT, ComparedFile, ExtraLine, MissingLine, PassedLines, size_of
from bridge.parity.log.matches import LineMatches
from bridge.parity.log.page_columns import Rows, late_among, parted
from bridge.parity.log.relocated_entries import RelocatedEntries
from bridge.parity.log.tally import ComparisonTally, Expectations
from bridge.parity.log.witness_check import WitnessCheck
from bridge.parity.proof_point import TOTALS, FilePlace, ProofPoint
from bridge.parity.statistics import MessageStatistics

MOST_DIFFERENCES = 10_000
"""How many lines, and entries, in disagreement are classified; any more are only counted as being alone."""


class Comparison:
    """Compares one mapping's stream with its files: `feed` it every page of the stream, then `finish`.

    `files` are each source's, by name; `numbers` the sources' names by number; `rest` the files only the mirror writes.
    """

    def __init__(
        self, files: Mapping[str, Sequence[ComparedFile]], numbers: Mapping[int, str],
        rest: Mapping[str, Sequence[ComparedFile]], codec: Callable[[str], Codec], expected: ExpectedLine,
        due: Expectations, since: ProofPoint | None = None, stats: MessageStatistics | None = None, every: int = 0,
        floor: EntryId = ZERO_ID, witness: WitnessCheck | None = None,
    ) -> None:  # fmt: skip
        self.witness = witness or WitnessCheck({}, 0, ZERO_ID)
        self.tally = ComparisonTally(marked=due.late is not None)
        self.account = ByteAccount(since.account if since is not None else None)
        self._codec = codec
        self._codecs: dict[str, Codec] = {}
        self._expected = expected
        self._due = due
        self._files, self._rest = files, rest
        self._since = since or ProofPoint()
        self._stats = stats
        starts = {name: begin.place for name, begin in self._since.places.items()}
        self._claims = {
            name: OriginClaims(name, of, self._codec_of(name), self, starts.get(name, -1)) for name, of in files.items()
        }
        self._by_number = {number: self._claims[name] for number, name in numbers.items() if name in self._claims}
        self._matches: dict[str, LineMatches] = {}
        self._digest = AgreementDigest(files, several=expected.several)
        self._at_the_end = False
        self._late = 0
        self.first_waiting: EntryId | None = None
        """The first Redis-born entry that has no line yet."""
        self._relocated = RelocatedEntries(due.moved, due.acknowledged, self._codec_of, self.missing)
        self._extras: list[ExtraLine] = []
        self._missing: list[MissingLine] = []
        self._names = list(self._codec_of(next(iter(files), "x")).fields)
        self._every = every
        ended = self._since.last if self._since.last < HIGHEST_ID else self._since.resume
        self._ended = max(ended, floor)  # no entry below it could be trimmed
        self._noted, self._noted_at = 0, self._since.resume
        self.fed = 0
        """How many entries the comparison was given."""
        self.points: list[tuple[ProofPoint, int]] = []
        """Proof points on the way, one about every `every` entries, each with the number of entries fed by then."""

    def _codec_of(self, name: str) -> Codec:
        if name not in self._codecs:
            self._codecs[name] = self._codec(name)
        return self._codecs[name]

    # -- the stream ------------------------------------------------------------------------------------------

    def feed(self, rows: Rows) -> None:
        """Feeds the comparison with the next entries of the stream, and compares them with the files' lines."""
        self.fed += len(rows)
        newest = parse_id(rows[-1][0]) if rows else ZERO_ID
        self.tally.entries += len(rows)
        if rows and parse_id(rows[0][0]) <= self._since.last:
            self.tally.entries -= sum(1 for row in rows if parse_id(row[0]) <= self._since.last)
            rows = [row for row in rows if not self._known(*row)]
        late = late_among(rows, self._due.late)
        born, plain, odd = parted(rows, self._names)
        self.tally.entries -= len(rows) - len(plain) - len(odd) - sum(len(batch.ids) for batch in born.values())
        if plain:
            self._redis_born(plain, late)
        for entry_id in odd:
            self.without_line(entry_id)
        for number, column in born.items():
            claims = self._by_number.get(number)
            if claims is not None:
                claims.late |= late.intersection(column.ids) if late else late
                claims.add(*self._relocated.standing(claims.name, column))
                continue
            for place, row, entry_id in zip(*column, strict=True):  # of a source that nobody knows
                name = f"source {number}"
                self.missing(MissingLine(name, entry_id, row, None, place))
        if self._every and self.fed - self._noted >= self._every and newest > self._ended:
            self._note_point(newest)

    def _note_point(self, last: EntryId) -> None:
        """Notes `last` as a proof point of the comparison, if nothing disagrees or waits for later entries."""
        if self._extras or self._missing or self.tally.uncounted or not self.may_be_trimmed:
            return
        if not all(claims.settle() for claims in self._claims.values()):
            return
        if not all(matches.at_rest for matches in self._matches.values()):
            return
        point = replace(self.until(last, 0, min(self._due.entry, last)), digest="", account={})
        if point.resume > self._noted_at:  # else entries wait for lines that stand in a file which is read at the end
            self.points.append((point, self.fed))
            self._noted, self._noted_at = self.fed, last

    def _known(self, raw: bytes, fields: Sequence[bytes] | None) -> bool:
        """Whether an entry was compared up to the last comparison's proof point, and need not be again."""
        since, entry_id = self._since, parse_id(raw)
        if entry_id > since.last or fields is None:
            return False
        names = fields[0::2]
        if ORIGIN_FIELD in names:
            origin = parse_origin(fields[2 * names.index(ORIGIN_FIELD) + 1])
            if origin is not None:
                claims = self._by_number.get(origin.source)
                start = since.places.get(claims.name) if claims is not None else None
                place = (origin.generation << SHIFT) + origin.offset
                place = self._relocated.place(claims.name, place) if claims is not None else place
                return start is not None and place < start.place
        [made] = self._expected.lines([fields])
        return entry_id <= (since.targets.get(made[0], ZERO_ID) if made is not None else since.due)

    def _redis_born(self, plain: list[tuple[bytes, list[bytes]]], late: set[bytes]) -> None:
        if not self._due.mirrored:
            self.tally.not_mirrored += len(plain)
            return
        straight = self._expected.straight([fields for _, fields in plain]) if not late else None
        if straight is not None:
            ids = [entry_id for entry_id, _ in plain]
            self.witness.born(straight[0], ids, straight[1])
            self._matches_of(straight[0]).entries.push(ids, straight[1])
            return
        lines = self._expected.lines([fields for _, fields in plain])
        by_name: dict[str, tuple[list[bytes], list[bytes]]] = {}
        for (entry_id, _), made in zip(plain, lines, strict=True):
            if made is not None:
                self.witness.born(made[0], [entry_id], [made[1]])
            if made is not None and entry_id in late:
                self.missing(MissingLine(made[0], entry_id, self._row_of(*made), made[1], excused=True))
            elif made is not None:
                ids, texts = by_name.setdefault(made[0], ([], []))
                ids.append(entry_id)
                texts.append(made[1])
            else:
                self.without_line(entry_id)
        for name, (ids, texts) in by_name.items():
            self._matches_of(name).entries.push(ids, texts)

    def without_line(self, entry_id: bytes) -> None:
        """Counts in the comparison a Redis-born entry that can be no line.

        It is quarantined if the mirror came by, else waiting, or not mirrored.
        """
        if not self._due.mirrored:
            self.tally.not_mirrored += 1
        elif parse_id(entry_id) > self._due.entry and not self._due.aside(MissingLine("", entry_id, (), None)):
            self.waiting(parse_id(entry_id))
        else:
            self.tally.quarantined += 1

    def _matches_of(self, name: str) -> LineMatches:
        if name not in self._matches:
            self._matches[name] = LineMatches(name, self._codec_of(name), self._due.entry, self)
        return self._matches[name]

    def _row_of(self, name: str, line: bytes) -> Row:
        row = self._codec_of(name).decode((line,)).rows[0]
        return row if isinstance(row, tuple) else (line,)

    # -- the end ---------------------------------------------------------------------------------------------

    def finish(self) -> ComparisonTally:
        """Ends the comparison: reads the files to their ends, returns the tally. Raises what reading raises."""
        for claims in self._claims.values():
            claims.finish()
        for name in {*self._rest} | {*self._matches}:
            matches = self._matches_of(name)
            for file in self._rest.get(name, ()):
                number = file.first
                for block in file.blocks():
                    places = [file.base + offset for offset in block.offsets]
                    numbers = list(range(number, number + len(places)))
                    matches.passed(PassedLines(file, block.lines, places, numbers))
                    number += len(places)
            matches.finish()
        self._at_the_end = True
        left = (entry for matches in self._matches.values() for some in matches.late.values() for entry in some)
        for entry in left:
            self.missing(entry)
        self._sort_out()
        for files in self._files.values():
            self.account.end(files)
        self.tally.digest = self._digest.hexdigest()
        self._relocated.tell(self.tally)
        return self.tally

    def claimed_to(self) -> dict[str, int]:
        """Returns for each compared source the place behind the last line that an entry claimed, -1 for none."""
        return {name: claims.claimed_to for name, claims in self._claims.items()}

    def until(self, last: EntryId, length: int, due: EntryId) -> ProofPoint:
        """Makes the proof point from which the next comparison may go on, when this one found all equal."""
        places, totals = {}, {name: getattr(self.tally, name) for name in TOTALS}
        ends = {name: claims.settled for name, claims in self._claims.items()}
        ends |= {name: self._matches[name].settled for name in self._rest if name in self._matches}
        for name, end in ends.items():
            if end is not None:
                places[name] = FilePlace.of(*end)
            elif name in self._since.places:
                places[name] = self._since.places[name]
        firsts = [self.first_waiting, *(log.early_from for log in self._matches.values())] if self._due.dual else []
        firsts += [matches.first_left for matches in self._matches.values()]
        resume = min([before(first) for first in firsts if first is not None], default=last)
        targets = {name: max(matches.matched_to, self._since.targets.get(name, ZERO_ID))
                   for name, matches in self._matches.items()}  # fmt: skip
        totals["redis_born"] -= sum(matches.early for matches in self._matches.values())
        for name, number in self._since.totals.items():
            totals[name] += number
        raw = (self._since.digest + self.tally.digest).encode()
        chained = hashlib.blake2b(raw, digest_size=16).hexdigest() if self._since.digest else self.tally.digest
        return ProofPoint(
            last, resume, due, length, places=places, targets=dict(self._since.targets) | targets, totals=totals,
            digest=chained, account=self.account.for_later(),
        )  # fmt: skip

    def close(self) -> None:
        """Closes the comparison's temporary files of lines and entries."""
        for matches in self._matches.values():
            matches.entries.close()
        self._digest.close()

    def _sort_out(self) -> None:
        if not (self._extras or self._missing):
            return
        tally, due = self.tally, self._due
        self._missing, self._extras = explained(self._missing, self._extras, self._codec_of, self)
        self._missing = [missing for missing in self._missing if not self._went_with_its_file(missing)]
        if tally.uncounted and due.late is not None:  # late entries' lines may be among those only counted
            self._missing = [missing for missing in self._missing if not missing.excused]
        found = classify(self._extras, self._missing, self._codec_of, aside=due.aside, both=due.both, seen=self._seen)
        kept, told = due.acknowledged.without(found.differences)
        tally.acknowledged += len(found.differences) - len(kept)
        tally.differences = sorted(kept, key=lambda told: (told.source, told.place if told.place >= 0 else 1 << 62))
        for extra, kind in found.accounted:
            if self.account.found(extra.file, extra.place) or not extra.broken:
                self.accounted(extra.file, kind, len(extra.line) + 1)
        for extra in found.lost:
            if (extra.file.source, extra.place) in told:
                self.accounted(extra.file, "aside", size_of(extra.line))
            elif not extra.file.foreign:
                self.account.lost(extra.file, extra.place, len(extra.line) + 1)
        tally.quarantined += found.aside - found.altered_broken
        tally.foreign += found.foreign
        tally.late += found.late
        tally.unordered += found.unordered
        tally.file_born += found.file_born
        tally.redis_born += found.redis_born

    def _went_with_its_file(self, missing: MissingLine) -> bool:
        """Whether a Redis-born entry's line may have stood in a generation that the comparison found gone.

        Its neighbours place it there, and it was written before anything was read of the generation after that.
        """
        low, high = (place >> SHIFT for place in missing.between)
        claims = self._claims.get(missing.name)
        gone = {*self._due.gone.get(missing.name, ()), *(claims.gone if claims is not None else ())}
        for number in sorted(gone) if missing.home < 0 else ():
            later = [n for n in claims.first_ids if n > number] if claims is not None else []
            next_id = parse_id(claims.first_ids[min(later)]) if claims is not None and later else None
            if low < number < high and (next_id is None or parse_id(missing.entry) < next_id):
                self.unverifiable(1, f"generation {number} of {missing.name} is gone")
                return True
        for file in self._files.get(missing.name, ()) if missing.home < 0 else ():
            if low <= file.generation <= high and file.damage():
                self.unverifiable(1, f"{file.name} {file.damage()}")
                return True
        return False

    def _seen(self, lines: Iterable[bytes], places: Iterable[tuple[str, int]]) -> FreshLook:
        """Reads the compared files once more, for lines of given bytes and for the lines at given places."""
        asked, left_over = set(places), {(extra.file.source, extra.place) for extra in self._extras}
        if not (self.tally.compared or asked):
            return FreshLook({}, {})
        files = [*self._files.items(), *self._rest.items()]
        return look_again(files, self._codec_of, set(lines), asked, left_over)

    @property
    def may_be_trimmed(self) -> bool:
        """Whether compared entries may be trimmed: none waits for its line, or a bridge runs that writes it."""
        return self.first_waiting is None or self._due.dual

    def gone(self, name: str) -> set[int]:
        """Returns the generations of a source that the comparison found in none of its files."""
        return self._claims[name].gone if name in self._claims else set()

    # -- what claims and matches report (`Findings`) --------------------------------------------------------

    def claimed(self, file: ComparedFile, lines: list[bytes], places: list[int], count: int) -> None:
        """Counts and hashes in the comparison lines that agree with the file-born entries that claim them."""
        if (matches := self._matches.get(file.source)) is not None:
            matches.due_again()
        self.tally.file_born += count
        self.account.add(file, "carried", sum(map(len, lines)) + len(lines))
        if self._stats is not None:
            self._stats.add(self._codec_of(file.source), lines)
        self._digest.file_born(file, lines, places)

    def passed(self, passed: PassedLines) -> None:
        """Takes into the comparison lines that no file-born entry claims, to match them with Redis-born entries."""
        self._matches_of(passed.file.source).passed(passed)

    def matched(self, name: str, ids: list[bytes], lines: list[bytes]) -> None:
        """Counts and hashes in the comparison lines of a file that agree with Redis-born entries."""
        self.tally.redis_born += len(ids)
        if self._stats is not None:
            self._stats.add(self._codec_of(name), lines)
        self._digest.redis_born(name, ids, lines)

    def extra(self, extra: ExtraLine) -> None:
        """Keeps a line without an entry for the comparison's end; beyond `MOST_DIFFERENCES` it is only counted."""
        if self._relocated.needs_no_entry(extra.file.source, extra.place):
            self.accounted(extra.file, "aside", size_of(extra.line))
            return
        if len(self._extras) < MOST_DIFFERENCES:
            self._extras.append(extra)
        elif not (extra.file.foreign or extra.broken):
            self.tally.uncounted["missing_in_redis"] = self.tally.uncounted.get("missing_in_redis", 0) + 1

    def missing(self, missing: MissingLine) -> None:
        """Keeps an entry without a line for the comparison's end; beyond `MOST_DIFFERENCES` it is only counted."""
        if missing.home < 0 and self._relocated.is_acknowledged(missing.entry):
            return
        if missing.excused and missing.line is not None and not self._at_the_end and self._late < MOST_DIFFERENCES:
            self._late += 1
            self._matches_of(missing.name).late.setdefault(missing.line, []).append(missing)
            return
        if len(self._missing) < MOST_DIFFERENCES:
            self._missing.append(missing)
        else:
            self.tally.uncounted["missing_in_file"] = self.tally.uncounted.get("missing_in_file", 0) + 1

    def came_late(self, missing: MissingLine) -> None:
        """Counts in the comparison an entry that is marked late and whose line was found out of order."""
        self.tally.late += 1
        self.tally.redis_born += missing.home < 0
        self.tally.file_born += missing.home >= 0

    def unverifiable(self, count: int, why: str) -> None:
        """Counts in the comparison entries whose lines cannot be compared, and notes `why`."""
        self.tally.unverifiable += count
        self.tally.why[why] = self.tally.why.get(why, 0) + count

    def accounted(self, file: ComparedFile, kind: str, size: int) -> None:
        """Notes in the comparison's account what became of a number of bytes of a source's file."""
        if not file.foreign:
            self.account.add(file, kind, size)

    def kept(self, file: ComparedFile, place: int, line: bytes) -> None:
        """Notes in the comparison's account a line that is no message: quarantined if quarantine has it, else lost."""
        known = file.foreign or self._due.kept is None or self._due.kept(file, place, line)
        (self.accounted(file, "quarantined", size_of(line)) if known else self.account.lost(file, place, size_of(line)))

    def aside(self, count: int) -> None:
        """Counts in the comparison lines that are no messages as quarantined."""
        self.tally.quarantined += count

    def waiting(self, entry: EntryId) -> None:
        """Counts for parity a Redis-born entry without a line yet: in flight while a mirror runs, else not mirrored."""
        self.first_waiting = min(self.first_waiting or entry, entry)
        if self._due.dual:
            self.in_flight(1, entry[0])
        else:
            self.tally.not_mirrored += 1

    def in_flight(self, count: int, oldest_ms: int) -> None:
        """Counts in the comparison messages not due on the other side yet, and keeps the time of the oldest."""
        self.tally.in_flight += count
        if oldest_ms and (not self.tally.oldest_ms or oldest_ms < self.tally.oldest_ms):
            self.tally.oldest_ms = oldest_ms
