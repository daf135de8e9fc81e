"""Parity check of one log mapping: takes a snapshot, reads files and stream, and compares them (DESIGN §6.5).

A check holds no lock, and writes nothing but the ledger's note of the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from operator import attrgetter
from threading import Event
from typing import Any

from bridge.continuity.archive_reader import ArchiveReader, history
from bridge.continuity.ownership import StreamLease
from bridge.core.config import Settings
from bridge.core.errors import LeaseHeld, RedisLost
from bridge.core.mapping import Mapping
from bridge.core.model import FIELDS, ZERO_ID, EntryId, Origin, Row, after, format_id, paired, parse_id, parse_origin
from bridge.core.model import before as before_it
from bridge.ledger.edits import waiting
from bridge.ledger.sources import gone_before_mirrored, in_doubt
from bridge.ledger.store import Ledger
from bridge.parity.account import ByteAccount, Lost
from bridge.parity.log.classify import Difference
from bridge.parity.log.compare import Comparison
from bridge.parity.log.expected_line import ExpectedLine
from bridge.parity.log.items import (
    SHIFT,
)
from bridge.parity.log.tally import Expectations, LateMarks
from bridge.parity.log.witness_check import WitnessCheck
from bridge.parity.proof_point import ProofPoint
from bridge.parity.quarantined_lines import kept_back, set_aside
from bridge.parity.result import ParityResult, verdict_of
from bridge.parity.snapshot import Snapshot
from bridge.parity.statistics import MessageStatistics
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.layout import is_owner, others_stream
from bridge.streams.trim import read_trimmed

PARITY_PAGE, PAGE_BYTES = 500, 1 << 20
"""How many entries, and about how many bytes, parity reads with one command: a few milliseconds of the server's
time."""

MOST_POINTS, CLOSEST, WIDEST_SPACING = 200, 20, 5000
"""Into how many parts the proof points divide a stream, and how many entries a part has at least and at most. Trimming
reads a stream from one proof point to another, and holds that part in memory as a whole."""

MOST_TRIMMED_LOOKS = 5
"""How often at most parity compares a mapping whose stream is trimmed meanwhile."""

MOST_LOOKS = 8
"""How often at most parity compares again where each comparison finds something else."""

NEVER_AT_REST = "each look found other differences: files were rotated, or the stream filled, all the time"

DIFFERENCE_SETTLE_SECONDS = 1.0
"""Seconds after which parity compares once more before it reports a difference."""

TellRead = Callable[[int, int], None]
"""Called with how many entries parity has read, and of how many."""


class Interrupted(Exception):
    """Raised when the stop event was set while a parity check compared."""


def entry_parts(fields: list[bytes]) -> tuple[bytes | None, Origin | None, Row | None]:
    """Parses an entry's fields for a parity check: its origin as it stands, the origin parsed, and its message's row.

    `fields` are name, value, name … The first is None for an entry born in Redis; the others are None where they cannot
    be read.
    """
    values = paired(fields)
    raw = values.get(b"origin")
    row = tuple(values[name] for name in FIELDS) if all(name in values for name in FIELDS) else None
    return raw, parse_origin(raw) if raw is not None else None, row


def spacing(length: int) -> int:
    """Returns how many entries a parity check puts between two proof points, for a stream of this length. Pure."""
    return max(CLOSEST, min(WIDEST_SPACING, length // MOST_POINTS))


def _removed(since: ProofPoint, view: Snapshot, entries: int) -> bool:
    """Whether the parity check sees that entries were removed since proof point `since`, other than on purpose. Pure.

    `entries` came meanwhile.
    """
    trimmed = view.trimmed.count - since.trimmed
    if view.added != since.added + entries or view.length != since.length + entries - trimmed:
        return True
    return not trimmed and view.first != since.first


class ParityCheck:
    """Parity check of one mapping: compares both sides, and once more before a difference is reported.

    `dial` connects to Redis: to read the stream, and once more to look things up meanwhile.
    """

    def __init__(
        self, mapping: Mapping, settings: Settings, dial: Callable[[], Connection], ledger: Ledger | None,
        stop: Event, tell: TellRead, *, max_rate: float | None = None, settling: float = DIFFERENCE_SETTLE_SECONDS,
        stats: bool = False,
    ) -> None:  # fmt: skip
        self._mapping = mapping
        self._settings = settings
        self._dial = dial
        self._ledger = ledger
        self._stop = stop
        self._tell = tell
        self._max_rate = max_rate
        self._settling = settling
        self._stats = stats
        self._keys = Keys.of(mapping.stream.key)

    def run(self, since: ProofPoint | None = None) -> ParityResult:
        """Runs the parity check: compares both sides of the mapping, and if they differ, again after the settling time.

        With the proof point `since` it compares only what came after, unless that is not equal as well, or what was
        before has changed. Raises Interrupted, SourceError, RedisLost, RedisRefused.
        """
        if why := self._stranger() or self._in_doubt():
            return ParityResult(self._mapping.name, self._mapping.stream.key, notes=[why], began=time.time())
        result = self._once(since) if since is not None else None
        if result is None or result.verdict != "equal":
            result = self._once(None)
        for looks in range(MOST_LOOKS):
            if result is None or result.verdict != "differs":
                break
            before, witnessed = result.tally.differences, bool(result.too_much)
            unaccounted = {*result.account.unaccounted()} if result.account is not None else set()
            result = None  # it may be large
            if self._stop.wait(self._settling):
                raise Interrupted
            result = self._once(None)
            if result is None or result.verdict != "differs" or self._stands(before, unaccounted, result):
                break
            if witnessed and result.too_much:
                break
            if looks + 1 == MOST_LOOKS:
                result.verdict = "inconclusive"
                result.notes.append(NEVER_AT_REST)
        if result is None:
            raise AssertionError("a whole comparison has a result")
        return result

    def _stands(self, before: list[Difference], unaccounted: set[Lost], result: ParityResult) -> bool:
        """Whether a difference, or unaccounted bytes, were found by the parity check in two looks in a row.

        What is in flight differs from look to look: a rotation, or a stream that is being filled again, is met by one
        look here and by the next there.
        """
        if result.lost and result.alive:
            return False
        if result.account is not None and not unaccounted.isdisjoint(result.account.unaccounted()):
            return True
        what = attrgetter("kind", "entry", "expected", "actual")
        return not {*map(what, before)}.isdisjoint(map(what, result.tally.differences))

    def _stranger(self) -> str:
        """Says why the parity check finds that the stream is not of these files; empty: it is.

        Another bridge's stream, a copy of the folder, or an older ledger would be shown differences that are none.
        """
        with closing(self._dial()) as connection:
            meta = paired(connection.call("HGETALL", self._keys.meta))
            uuid = self._ledger.uuid if self._ledger is not None else b""
            if whose := others_stream(meta, uuid, self._settings.instance):
                return f"{whose}: these files are not compared with it"
            if self._ledger is None or not is_owner(meta.get(b"owner"), uuid):
                return ""
            try:
                doubt = StreamLease(self._keys, self._settings.state_dir).doubt(connection, self._ledger)
            except LeaseHeld as error:
                return f"these files are not compared: {error.what}"
        return f"this ledger may be an older one ({doubt}): `bridge run` compares it first" if doubt else ""

    def _in_doubt(self) -> str:
        """Says for which logs a parity check must wait, as another file took a log's place; empty: for none.

        The bridge does not know yet which of such a log's lines were carried. Raises Interrupted.
        """
        for _ in range(MOST_LOOKS):
            logs = in_doubt(self._ledger, self._mapping.stream.key) if self._ledger is not None else []
            if not logs:
                return ""
            if self._stop.wait(self._settling / 2):
                raise Interrupted
        named = ", ".join(logs[:3])
        if self._ledger is not None and waiting(self._ledger, self._mapping.stream.key) & {*logs}:
            return f"another file took the place of {named}: `bridge repair --as-edit` or `--as-new` says what it is"
        return f"another file took the place of {named}, and the bridge has yet to find out what it holds"

    def _once(self, since: ProofPoint | None) -> ParityResult | None:
        """Runs the parity check's comparison once; None: what stood before the proof point `since` has changed.

        Begins anew where a page of the stream was larger than what the server gives at once, with smaller pages, and
        where the stream was trimmed meanwhile.
        """
        began, steady = time.time(), time.monotonic()
        while True:
            with closing(self._dial()) as connection, closing(self._dial()) as marks:
                most = connection.budget.most
                try:
                    result = self._untrimmed(since, connection, marks)
                    break
                except RedisLost as error:
                    lost = error
            with closing(self._dial()) as again:
                if again.budget.most >= most:
                    raise lost
        if result is not None:
            result.began, result.seconds = began, time.monotonic() - steady
        return result

    def _untrimmed(self, since: ProofPoint | None, connection: Connection, marks: Connection) -> ParityResult | None:
        """Compares both sides for the parity check, again where entries to be compared were trimmed meanwhile."""
        result = None
        for _ in range(MOST_TRIMMED_LOOKS):
            floor = read_trimmed(marks, self._keys).floor
            result = self._of_both(since, connection, marks)
            if result is None or result.verdict == "equal" or read_trimmed(marks, self._keys).floor == floor:
                break
        return result

    def _of_both(self, since: ProofPoint | None, connection: Connection, marks: Connection) -> ParityResult | None:
        view = Snapshot(self._mapping, self._settings, connection, self._keys, self._ledger)
        with closing(view):
            return self._prove(view, since, connection, marks)

    def _prove(
        self, view: Snapshot, since: ProofPoint | None, connection: Connection, marks: Connection
    ) -> ParityResult | None:
        """Proves by a snapshot whether both sides are equal: entries claim lines, and what is left alone is classified.

        None: what stood before the proof point `since` has changed.
        """
        if since is not None and not self._holds(since, view):
            return None
        begins = since or view.base()
        stats = MessageStatistics() if self._stats else None
        comparison = self._comparison(view, begins, stats, marks)
        with closing(comparison):
            self._walk(connection, comparison, view, begins)
            tally = comparison.finish()
            if since is not None and _removed(since, view, tally.entries):
                return None
            if since is None and begins is not None:
                comparison.unverifiable(begins.added, "trimmed: the stream begins behind them")
            result = self._result(view, comparison, since, marks)
            result.stats = stats
            return result

    @staticmethod
    def _holds(since: ProofPoint, view: Snapshot) -> bool:
        """Whether parity may compare only what came since a proof point: stream and all files go on from there."""
        found = {name: source.files for name, source in (view.sources | view.targets).items()}
        return view.last >= since.last and all(since.rest(name, files) is not None for name, files in found.items())

    def _comparison(
        self, view: Snapshot, begins: ProofPoint | None, stats: MessageStatistics | None, marks: Connection
    ) -> Comparison:
        """Makes the comparison of a snapshot's files and stream, behind the proof point `begins` if there is one."""
        files = {name: found.files for name, found in view.sources.items()}
        own = {name: found.files for name, found in view.targets.items()}
        gone = view.gone
        if begins is not None:
            files = {name: begins.behind(name, found) for name, found in files.items()}
            own = {name: begins.behind(name, found) for name, found in own.items()}
            first = {name: place.place >> SHIFT for name, place in begins.places.items()}
            gone = {name: [n for n in of if n >= first.get(name, 0)] for name, of in gone.items()}
        due = Expectations(
            view.mirrored_to, view.mirrored, view.dual, LateMarks(marks, self._keys.late) if view.marked else None,
            set_aside(view, self._ledger, self._mapping.stream.key), gone, view.both, view.acknowledged, view.moved,
            kept_back(view, self._ledger, self._mapping.stream.key),
        )  # fmt: skip
        start = ZERO_ID if begins is None else begins.resume
        expected = ExpectedLine(self._mapping, self._settings.roles, self._settings.paths)
        witness = WitnessCheck(view.books.mirror if view.mirrored else {}, view.added - view.length, start)
        return Comparison(
            files, view.numbers, own, self._mapping.codec, expected, due, begins, stats, spacing(view.length),
            view.trimmed.floor, witness,
        )  # fmt: skip

    def _result(
        self, view: Snapshot, comparison: Comparison, since: ProofPoint | None, marks: Connection
    ) -> ParityResult:
        """Gives the verdict on a comparison that is finished; an equal one has the proof points of the next parity."""
        before = sum(since.totals[name] for name in ("file_born", "redis_born")) if since is not None else 0
        too_much, account = comparison.witness.too_much(), self._account(comparison.account, view)
        verdict = verdict_of(comparison.tally, view.length, before)
        if too_much or any(account.unaccounted()):
            verdict = "differs"
        result = ParityResult(self._mapping.name, self._mapping.stream.key, verdict, comparison.tally)
        result.account = account
        result.files, result.entry = view.positions(comparison.claimed_to()), view.last
        if comparison.first_waiting is not None:
            end = format_id(before_it(comparison.first_waiting))
            told = marks.call("XREVRANGE", self._keys.stream, end, "-", "COUNT", 1)
            result.entry = parse_id(told[0][0]) if told else ZERO_ID
        result.cut = {name: cut for name, cut in view.cut.items() if cut.generation not in comparison.gone(name)}
        result.notes, result.lost, result.alive = view.notes + too_much, view.lost, view.alive
        result.too_much = too_much
        result.length = view.length
        result.onwards = since is not None
        if verdict == "equal":
            until = comparison.until(view.last, view.length, view.mirrored_to)
            result.until = replace(until, first=view.first, added=view.added, trimmed=view.trimmed.count)
            result.points = [
                replace(point, added=view.added - (comparison.fed - fed)) for point, fed in comparison.points
                if point.resume >= view.trimmed.floor  # entries below the trim floor are gone
            ] + [result.until] * comparison.may_be_trimmed  # fmt: skip
            result.add(since)
        return result

    def _walk(self, connection: Connection, comparison: Comparison, view: Snapshot, since: ProofPoint | None) -> None:
        start = parse_id(after(since.resume)) if since is not None else ZERO_ID
        if view.last == ZERO_ID:
            return
        read, begun = 0, time.monotonic()
        for rows in self._history(connection, start, view.last):
            some = spacing(view.length)
            for at in range(0, len(rows), some):
                comparison.feed(rows[at : at + some])
            read += len(rows)
            self._tell(read, view.length)
            ahead = read / self._max_rate - (time.monotonic() - begun) if self._max_rate else 0.0
            if self._stop.wait(ahead) if ahead > 0 else self._stop.is_set():
                raise Interrupted

    def _history(self, connection: Connection, start: EntryId, last: EntryId) -> Iterator[list[Any]]:
        """Reads entries from `start` to `last` for the parity check, by pages; trimmed ones as the archive has them."""
        archive = (
            ArchiveReader(self._mapping, self._settings.state_dir, self._ledger) if self._ledger is not None else None
        )
        return history(connection, self._keys, archive, start, last, PARITY_PAGE, PAGE_BYTES)

    def _entries(self, connection: Connection, last: EntryId, length: int) -> Iterator[list[Any]]:
        """Reads the stream up to `last` for the parity check, by pages, and reports progress. Raises Interrupted."""
        if last == ZERO_ID:
            return
        read = 0
        for rows in self._history(connection, ZERO_ID, last):
            yield rows
            read += len(rows)
            self._tell(read, length)
            if self._stop.is_set():
                raise Interrupted

    def _account(self, account: ByteAccount, view: Snapshot) -> ByteAccount:
        """Completes the parity check's account with the files that were not compared, and the stream's entries."""
        account.aside += view.aside()
        account.entries, account.trimmed = view.length, view.trimmed.count
        if self._ledger is not None:
            account.gone, _ = gone_before_mirrored(self._ledger, self._mapping.stream.key)
        account.deleted = max(0, view.added - view.length - view.trimmed.count)
        return account
