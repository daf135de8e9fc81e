"""Plans and makes the trims of one stream by its retention: moves the floor, archives, and removes, a part at a time.

Entries that something still needs (a consumer group, the mirror, quarantine, parity) are not trimmed.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from bridge.admin.retention.limits import AllowedTrim, StreamUsage, TrimObstacle, allowed, over
from bridge.continuity.archive_reader import ArchiveReader
from bridge.continuity.archive_writer import ArchiveWriter
from bridge.continuity.trim_floor import remember
from bridge.core.errors import LockHeld, NotOwner
from bridge.core.failpoints import failpoint
from bridge.core.mapping import Mapping
from bridge.core.model import ORIGIN_FIELD, ZERO_ID, EntryId, Position, after, before, format_id, parse_id, parse_origin
from bridge.ledger.parity_runs import runs
from bridge.ledger.quarantine import first_in_quarantine
from bridge.ledger.ranges import first_line_from, last_end
from bridge.ledger.sources import sources_of, stream_memory
from bridge.ledger.store import Ledger
from bridge.ledger.trim_points import TrimPoint, confirm, confirmed, drop_points, points_of, save_report
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.layout import is_owner
from bridge.streams.reader import Entry, pages, stream_info, to_entries
from bridge.streams.trim import (
    STEP,
    FloorConflict,
    HoldingGroup,
    TrimmedSource,
    TrimState,
    groups_hold,
    read_trimmed,
    set_floor,
    step,
)

TRIM_PAGE, TRIM_PAGE_BYTES = 1000, 1 << 20

TRIM_PART, PART_BYTES = 1000, 2 << 20
"""About how many entries, and bytes of them, one trim archives and removes: not after every entry is a trim point."""

SPACING = 100
"""Entries between two trim points of a stream whose files have no order."""


@dataclass(frozen=True, slots=True)
class TrimPlan:
    """Holds the plan of a trim: how a stream stands to its retention at one moment, and what may be trimmed."""

    trimmed: TrimState
    size: StreamUsage
    allowed: AllowedTrim
    oldest: EntryId
    """The first entry of the stream at or above the floor; 0-0: there is none."""
    unproven: bool
    """Whether entries are over the limits that parity has not found equal yet."""
    little: bool
    """Whether entries are over the limits, but no trim point lies so far that they could be trimmed."""
    fresh: int
    """Entries that came since the last trim point, up to which parity found both sides equal."""
    leftover: bool
    """Whether entries below the floor are left to remove, more than a part of a node of the stream."""
    waits: bool
    """Whether the limits are new, so that the first trim by them waits for a person's confirmation."""

    @property
    def nothing(self) -> bool:
        """Whether no entry of the stream is over the limits of its retention, so that there is nothing to trim."""
        return self.allowed.wanted is None and not (self.unproven or self.little)

    @property
    def goes(self) -> int:
        """About how many entries of the stream may be trimmed now."""
        upto = self.allowed.upto
        return 0 if upto is None else max(0, self.size.length - (self.size.added - upto.added))

    def to_json(self) -> dict[str, Any]:
        """Turns the plan of a trim into JSON, for `bridge trim --json` and for the ledger's note of the last look."""
        upto = self.allowed.upto
        return {
            "floor": format_id(self.trimmed.floor).decode(), "trimmed": self.trimmed.count,
            "length": self.size.length, "bytes": self.size.bytes, "oldest": format_id(self.oldest).decode(),
            "over": format_id(self.allowed.wanted).decode() if self.allowed.wanted else None,
            "upto": format_id(upto.entry).decode() if upto else None, "unproven": self.unproven,
            "goes": self.goes, "waits": self.waits,
            "holds": [{"from": format_id(hold.first).decode(), "who": hold.who, "hint": hold.hint or None}
                      for hold in self.allowed.holds],
        }  # fmt: skip


@dataclass(slots=True)
class TrimReport:
    """Reports what a trim did to a stream: entries removed, bytes archived, the floor, and who held it up."""

    removed: int = 0
    archived: int = 0
    """Bytes that were added to the archive."""
    floor: EntryId = ZERO_ID
    held: HoldingGroup | None = None
    """A consumer group that came to need entries while they were being trimmed."""


class Retention:
    """Plans and makes the trims of one mapping's stream by its retention, and archives the entries if that is wanted.

    `dial` connects to Redis; `clock` in seconds since 1970. Used by one thread.
    """

    def __init__(
        self, mapping: Mapping, state_dir: Path, ledger: Ledger, dial: Callable[[], Connection],
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.mapping = mapping
        self._lock = state_dir / "trim.lock"
        self._archive = ArchiveReader(mapping, state_dir, ledger) if mapping.retention.archive else None
        self._ledger = ledger
        self._dial = dial
        self._clock = clock
        self._stream = mapping.stream.key
        self._keys = Keys.of(self._stream)
        self._looked_to = ZERO_ID
        """Up to this entry ID no Redis-born entry waits for the mirror."""

    # -- looking ---------------------------------------------------------------------------------------------

    def plan(self) -> TrimPlan:
        """Plans the next trim of the stream, from Redis and ledger; changes nothing.

        Raises RedisLost, RedisRefused, LedgerError.
        """
        with closing(self._dial()) as connection:
            return self._plan(connection)

    def _plan(self, connection: Connection) -> TrimPlan:
        keys, policy = self._keys, self.mapping.retention
        trimmed, info = read_trimmed(connection, keys), stream_info(connection, keys.stream)
        seconds, micros = connection.call("TIME")
        used = connection.call("MEMORY", "USAGE", keys.stream) if info.exists else None
        size = StreamUsage(info.added, info.length, int(used or 0), int(seconds) * 1000 + int(micros) // 1000)
        start = format_id(trimmed.floor) if trimmed.floor > ZERO_ID else b"-"
        first = connection.call("XRANGE", keys.stream, start, "+", "COUNT", 1)
        oldest = parse_id(first[0][0]) if first else ZERO_ID
        points = points_of(self._ledger, self._stream, max(oldest, trimmed.floor))
        if points and points[-1].position is None:
            points = list(self._places(connection, size, start, points[-1].entry))
        found = allowed(points, policy, size, [])
        holds = list(self._holds(connection, trimmed, found.wanted)) if found.wanted is not None else []
        behind = info.length - 1 - max(0, rank_of(trimmed) - trimmed.count)
        is_over = bool(first) and over(policy, size, oldest, behind)
        left = rank_of(trimmed) - trimmed.count > STEP
        little = is_over and bool(points) and found.wanted is None
        found = allowed(points, policy, size, holds) if holds else found
        fresh = info.added - (points[-1].added if points else 0)
        return TrimPlan(trimmed, size, found, oldest, is_over and not points, little, fresh, left, self._waits(trimmed))

    def _waits(self, trimmed: TrimState) -> bool:
        """Whether the retention's limits wait for a person's confirmation, where the mapping asks for one.

        A stream that was trimmed before confirmations existed goes on being trimmed.
        """
        policy = self.mapping.retention
        known = confirmed(self._ledger, self._stream)
        return policy.confirm and known != policy.limits and not (known is None and trimmed.floor > ZERO_ID)

    def adopt(self, trimmed: TrimState) -> None:
        """Confirms the retention's present limits in the name of `bridge run`, for a stream that is trimmed already.

        For limits that needed no person's confirmation.
        """
        known = confirmed(self._ledger, self._stream)
        if trimmed.floor > ZERO_ID and known != self.mapping.retention.limits:
            self.confirm("bridge run")

    def confirm(self, who: str) -> None:
        """Notes in the ledger that a person confirmed a trim by the retention's present limits. Raises LedgerError."""
        confirm(self._ledger, self._stream, self.mapping.retention.limits, self._clock(), who)

    def _places(self, connection: Connection, size: StreamUsage, start: bytes, upto: EntryId) -> Iterator[TrimPoint]:
        """Yields trim points of a stream whose files have no order: any place up to where parity compared it."""
        gone, policy = size.added - size.length, self.mapping.retention
        for rows in pages(connection, self._keys.stream, start, format_id(upto), SPACING, most_bytes=TRIM_PAGE_BYTES):
            if not rows:
                return
            gone += len(rows)
            last = parse_id(rows[-1][0])
            yield TrimPoint(last, gone, None)
            if not over(policy, size, last, size.added - gone):
                return

    def _holds(self, connection: Connection, trimmed: TrimState, wanted: EntryId) -> Iterator[TrimObstacle]:
        for held in groups_hold(connection, self._keys, trimmed.floor):
            yield hold_of(held)
        last = next(iter(runs(self._ledger, self._stream, 1)), None)
        if last is not None and last.verdict == "differs":
            hint = "`bridge parity` says where"
            yield TrimObstacle(max(trimmed.floor, (0, 1)), "parity: the two sides differ", hint)
        first = self._unmirrored(connection, trimmed.floor, wanted)
        if first is not None:
            yield TrimObstacle(first, "the mirror: it is not in its file yet", "`bridge run --dual` writes it")
        aside = first_in_quarantine(self._ledger, self._stream, trimmed.floor)
        if aside is not None:
            yield TrimObstacle(aside, "quarantine: it is in no file", "`bridge quarantine list`")

    def _unmirrored(self, connection: Connection, floor: EntryId, wanted: EntryId) -> EntryId | None:
        """Finds the first Redis-born entry up to `wanted` that the mirror has not written: a trim must spare it."""
        memory = stream_memory(self._ledger, self._stream)
        if self.mapping.mirror is None or memory is None or memory.mirror_cursor >= wanted:
            return None
        seen = max(memory.mirror_cursor, self._looked_to, before(floor))
        for rows in pages(
            connection, self._keys.stream, after(seen), format_id(wanted), TRIM_PAGE, most_bytes=TRIM_PAGE_BYTES
        ):
            for raw_id, fields in rows:
                if fields is not None and ORIGIN_FIELD not in fields[0::2]:
                    return parse_id(raw_id)
        self._looked_to = max(self._looked_to, wanted)
        return None

    def note(self, plan: TrimPlan) -> None:
        """Saves the plan of the last look at the retention in the ledger, for `bridge status`."""
        save_report(self._ledger, self._stream, self._clock(), plan.to_json())

    # -- removing --------------------------------------------------------------------------------------------

    def trim(self, stop: Callable[[], bool], *, only_finish: bool = False) -> TrimReport:
        """Trims the stream: removes the entries that are over the limits and that nothing holds, a part at a time.

        First finishes what an earlier trim had begun to remove; with `only_finish` nothing else.

        Raises NotOwner, LockHeld, RedisLost, RedisRefused, LedgerError, SourceError.
        """
        with self._alone(), closing(self._dial()) as connection, closing(self._dial()) as reading:
            self._own(connection)
            done = TrimReport()
            self._finish(connection, done, stop)
            while not (stop() or only_finish) and done.held is None:
                plan = self._plan(connection)
                upto = self._next(plan)
                if upto is None:
                    break
                self._one(connection, reading, plan, upto, done)
                self._finish(connection, done, stop)
            done.floor = read_trimmed(connection, self._keys).floor
            return done

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds the lock of trims, because two processes that trim at once would overwrite each other in the archive.

        Raises LockHeld.
        """
        with self._lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise LockHeld(
                    "another process trims at this moment", where=str(self._lock), hint="try again in a moment"
                ) from None
            yield

    def _own(self, connection: Connection) -> None:
        owner = connection.call("HGET", self._keys.meta, "owner")
        if owner is not None and not is_owner(owner, self._ledger.uuid):
            raise NotOwner("the stream belongs to another ledger: it is not trimmed here", where=self._stream)

    def _one(
        self, connection: Connection, reading: Connection, plan: TrimPlan, upto: TrimPoint, done: TrimReport
    ) -> None:
        """Sets the stream's floor behind one trim point, after the entries below it are archived if that is wanted."""
        now, floor = plan.trimmed, parse_id(after(upto.entry))
        base, archiving = json.loads(upto.position) if upto.position is not None else None, None

        def read(first: EntryId, last: EntryId) -> Iterator[Entry]:
            return chain.from_iterable(map(to_entries, self._pages(reading, first, last)))

        if self._archive is not None and not self._archive.stands(now.floor, upto.entry, read):
            archiving = ArchiveWriter(self._archive, self.mapping, self._ledger, now.floor, upto.entry, now.base)
        then = replace(now, floor=floor, origins=self._walk(reading, now, floor, archiving), base=base)
        if archiving is not None:

            def note() -> None:  # if Redis loses all before the floor is set there, the archive alone has these entries
                remember(self._ledger, self._stream, then)

            done.archived += archiving.end(note)
        failpoint("trim.floor.before")
        try:
            done.held = set_floor(connection, self._keys, self._ledger.uuid, now, upto.entry, then)
        except FloorConflict:
            raise NotOwner(
                "somebody else trims it, or owns it by now", where=self._stream, hint="is another bridge at work?"
            ) from None
        failpoint("trim.floor.after")
        if done.held is None:
            self._remember(connection, upto)

    def _pages(self, connection: Connection, first: EntryId, last: EntryId) -> Iterator[list[Any]]:
        span = format_id(first), format_id(last)
        return pages(connection, self._keys.stream, *span, TRIM_PAGE, most_bytes=TRIM_PAGE_BYTES)

    def _walk(
        self, connection: Connection, now: TrimState, floor: EntryId, archiving: ArchiveWriter | None
    ) -> dict[int, TrimmedSource]:
        """Reads the entries below the new floor, archives them if that is wanted, and gathers their origins by source.

        Returns, for each source's number, which of its lines have their entries among these, or among those trimmed
        before.
        """
        numbers = {memory.number: name for name, memory in sources_of(self._ledger, self._stream).items()}
        gone = {number: trimmed.positions for number, trimmed in now.origins.items()}
        stays = {number: first_line_from(self._ledger, self._stream, name, floor) for number, name in numbers.items()}
        for rows in self._pages(connection, now.floor, before(floor)):
            if archiving is not None:
                archiving.add(to_entries(rows))
            for _, fields in rows:
                names = fields[0::2] if fields is not None else []
                origin = parse_origin(fields[2 * names.index(ORIGIN_FIELD) + 1]) if ORIGIN_FIELD in names else None
                if origin is not None:
                    gone.setdefault(origin.source, []).append(Position(origin.generation, origin.offset))
            gone = {number: TrimmedSource.of(lines, stays.get(number)).positions for number, lines in gone.items()}
        ends = {number: last_end(self._ledger, self._stream, name) for number, name in numbers.items()}
        return {number: TrimmedSource.of(lines, stays.get(number), ends.get(number)) for number, lines in gone.items()}

    def _next(self, plan: TrimPlan) -> TrimPoint | None:
        """Chooses the trim point that ends the next part to trim.

        That is the one that an earlier trim had begun; else one after about a thousand entries; else the last allowed.
        """
        begun = self._archive.begun(plan.trimmed.floor) if self._archive is not None else None
        again = next((point for point in plan.allowed.free if point.entry == begun), None)
        if again is not None:
            return again
        gone, each = plan.size.added - plan.size.length, plan.size.bytes / max(1, plan.size.length)
        part = max(1, min(TRIM_PART, int(PART_BYTES / max(1.0, each))))
        return next((point for point in plan.allowed.free if point.added - gone >= part), plan.allowed.upto)

    def _finish(self, connection: Connection, done: TrimReport, stop: Callable[[], bool]) -> None:
        """Removes the entries below the stream's floor, step by step, but for the last part of a node.

        Ends early where a consumer group needs one of them.
        """
        while not stop():
            failpoint("trim.step.before")
            gone = step(connection, self._keys)
            failpoint("trim.step.after")
            if isinstance(gone, HoldingGroup):
                done.held = gone
                break
            done.removed += gone
            if not gone:
                break

    def _remember(self, connection: Connection, upto: TrimPoint) -> None:
        """Copies the stream's trim state from Redis into the ledger, and drops trim points up to the one reached."""
        now = read_trimmed(connection, self._keys)
        with self._ledger.transaction():
            remember(self._ledger, self._stream, now)
            drop_points(self._ledger, self._stream, upto.entry)


def rank_of(trimmed: TrimState) -> int:
    """Counts the entries that had come into a stream by its trim floor, by parity's note; else those trimmed. Pure."""
    return int(trimmed.base["added"]) if trimmed.base is not None else trimmed.count


def hold_of(held: HoldingGroup) -> TrimObstacle:
    """Describes a consumer group that holds entries as an obstacle to the trim. Pure."""
    what = "did not acknowledge it" if held.pending else "was not given it yet"
    hint = f"is it still used? XGROUP DESTROY removes a group that nobody reads with: {held.group}"
    return TrimObstacle(held.first, f"group {held.group}: it {what}", hint)
