"""Mends the differences that parity found: sends missing lines, appends missing entries' lines, each exactly once.

Nothing is rewritten or deleted. `plan` decides (pure); `Mender` acts. A message that is sent or appended stands out of
order, and is marked so; only a tail that was cut off a file is put back byte for byte, where all of it is known.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.admin.repair.out_of_order import OutOfOrderSender
from bridge.core.errors import SourceError
from bridge.core.failpoints import failpoint
from bridge.core.mapping import Mapping as BridgeMapping
from bridge.core.model import FIELDS, Origin, Position, hex_digest, parse_id
from bridge.files.generation import TAIL
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.provenance import release_lines
from bridge.ledger.edits import sent_as
from bridge.ledger.journal import note
from bridge.ledger.ranges import range_at
from bridge.ledger.spool_recovery import forget_file
from bridge.ledger.store import Ledger
from bridge.parity.log.classify import Difference
from bridge.parity.log.generations import CutFile
from bridge.parity.log.items import OFFSETS, SHIFT
from bridge.parity.result import ParityResult
from bridge.streams.reader import Entry

MEND_BLOCK = 1 << 20

Facts = dict[str, Any]

ADVICE = {
    "altered": "somebody changed one side: put the old bytes back, from a copy; or acknowledge it, with --accept",
    "duplicate": "one side holds it once too often: XDEL the entry, or bring the file back from a copy",
    "reordered": "both sides have it, in different places: bring back the side that was changed from a copy",
}
"""The advice what a person can do about a difference that repair does not mend, by its kind."""


@dataclass(frozen=True, slots=True)
class RepairAction:
    """Holds what repair does about one difference: "send" a line, "append" a line, or nothing but give `advice`."""

    action: str
    difference: Difference
    advice: str = ""


@dataclass(frozen=True, slots=True)
class TailRestore:
    """Holds the tail that was cut off a source's file, for repair to put back: `raw` belongs at the file's `offset`."""

    source: str
    offset: int
    raw: bytes
    lines: int


@dataclass(slots=True)
class RepairPlan:
    """Holds the plan of a repair for one mapping: actions, and tails to restore.

    `untold`: how many differences there are beyond those that parity lists.
    """

    mapping: str
    stream: str
    acts: list[RepairAction] = field(default_factory=list)
    restores: list[TailRestore] = field(default_factory=list)
    untold: int = 0

    def of(self, action: str) -> list[RepairAction]:
        """Selects the repair actions of one kind: "send", "append", or "" for advice alone."""
        return [act for act in self.acts if act.action == action]


def plan(
    result: ParityResult, mapping: BridgeMapping, numbers: Mapping[str, int], roles: frozenset[str],
    taken: Callable[[set[bytes]], set[bytes]] = lambda origins: set(),
) -> RepairPlan:  # fmt: skip
    """Plans what a repair does about each difference that parity found, or what it advises. Pure.

    `numbers`: of the sources, by name; `roles`: the components' roles, which a mirror's path may name. `taken` returns
    those of the given origins that an entry has already: somebody inserted a line before the one it was made from.
    """
    made = RepairPlan(result.mapping, result.stream)
    made.untold = sum(result.counts().values()) - len(result.tally.differences)
    restored: set[int] = set()
    for source, cut in result.cut.items():
        restore = _tail(source, cut, result.tally.differences)
        if restore is not None:
            made.restores.append(restore[0])
            restored |= restore[1]
    targets = _targets(mapping, roles)
    for n, difference in enumerate(result.tally.differences):
        if n not in restored:
            made.acts.append(_act(difference, result, numbers, targets))
    sends = {origin: act for act in made.of("send") if (origin := origin_of(act.difference, numbers))}
    for origin in taken(set(sends)) if sends else ():
        said = "it was put in there, and its place is the origin of another line's entry: append it anew"
        made.acts[made.acts.index(sends[origin])] = RepairAction("", sends[origin].difference, said)
    return made


def origin_of(difference: Difference, numbers: Mapping[str, int]) -> bytes:
    """Makes the origin under which repair would send the line of a difference; empty where the source has no number."""
    place = difference.place
    number = numbers.get(difference.source)
    return b"" if number is None or place < 0 else b"%d.%d:%d" % (number, place >> SHIFT, place & OFFSETS)


def _targets(mapping: BridgeMapping, roles: frozenset[str]) -> frozenset[str]:
    path = mapping.mirror.path if mapping.mirror is not None else ""
    names = roles if "{role}" in path else [path]
    return frozenset(path.replace("{role}", name) for name in names if name)


def _act(
    difference: Difference, result: ParityResult, numbers: Mapping[str, int], targets: frozenset[str]
) -> RepairAction:
    if result.unit == "batch":
        return _of_folder(difference)
    if result.unit == "value" and difference.entry is not None:
        return RepairAction("", difference, "an entry of its history that no value made: XDEL it")
    if result.unit == "value":
        return RepairAction(
            "", difference, "`bridge run` gives the side that does not own it the owner's value, and says what keeps it"
        )
    if difference.kind == "missing_in_redis":
        if difference.source in result.cut:
            return RepairAction(
                "", difference, "its log was edited since the bridge ran: start that first, it sends what is new"
            )
        if difference.source not in numbers:
            return RepairAction("", difference, "its file has no number in Redis yet: `bridge run` gives it one")
        if difference.shift:
            shift = f"({difference.shift:+})"
            said = f"bytes were put in or cut out before it {shift}, so its place is not its origin any more"
            return RepairAction("", difference, f"{said}: append it anew, or bring the file back from a copy")
        return RepairAction("send", difference)
    if difference.kind == "missing_in_file":
        if difference.expected is None or not difference.whole:
            return RepairAction("", difference, "its fields make no line: write it by hand")
        if not difference.file_born and difference.source not in targets:
            return RepairAction("", difference, "the mirror does not write this file: append it by hand")
        if difference.source in result.cut:
            return RepairAction(
                "", difference, f"{difference.source} was cut or changed: bring it back from a copy first"
            )
        # A line that the file never had looks the same as one that was taken out of an older piece.
        if any(row.has(difference.entry) for row in result.tally.taken_out):
            meant = f"`bridge repair --accept {difference.entry} --reason …`"
            advice = f"its line was changed or taken out of the log; {meant} says that it was meant"
            return RepairAction("", difference, advice)
        if difference.file_born:
            return RepairAction(
                "", difference, "no file holds a line where its origin says: bring its file back from a copy"
            )
        return RepairAction("append", difference)
    return RepairAction("", difference, ADVICE[difference.kind])


def _of_folder(difference: Difference) -> RepairAction:
    """Decides what repair does about one difference of a folder with a file per message, a spool or artifacts."""
    if difference.kind == "missing_in_redis":
        return RepairAction("send", difference)
    if difference.kind == "missing_in_file" and not difference.file_born:
        return RepairAction("append", difference)
    missing = "the file that it was made of is gone, and was not seen by this bridge: bring it back from a copy"
    return RepairAction("", difference, missing if difference.kind == "missing_in_file" else ADVICE[difference.kind])


def _tail(source: str, cut: CutFile, differences: list[Difference]) -> tuple[TailRestore, set[int]] | None:
    """Rebuilds the missing tail of a file that was cut, if known lines fill it to the byte and the digest matches.

    Returns the tail to restore and the indexes of the differences that this mends; None where it cannot be done.
    """
    mine = [
        (n, difference)
        for n, difference in enumerate(differences)
        if difference.kind == "missing_in_file" and difference.source == source
    ]
    by_offset = {
        difference.place & OFFSETS: (n, difference)
        for n, difference in mine
        if difference.place >> SHIFT == cut.generation
    }
    others = iter([(n, difference) for n, difference in mine if difference.place < 0])
    at, raw, used = cut.whole, b"", set[int]()
    while at < cut.offset:
        n, difference = by_offset.get(at) or next(others, (-1, None))
        if difference is None or difference.expected is None or not difference.whole:
            return None
        raw += difference.expected + b"\n"
        used.add(n)
        at = cut.whole + len(raw)
    if not used:
        return None
    known = (cut.before + raw)[-TAIL:]
    if at != cut.offset or hex_digest(known[-min(TAIL, cut.offset) :]) != cut.tail or not raw.startswith(cut.torn):
        return None
    return TailRestore(source, cut.whole + len(cut.torn), raw[len(cut.torn) :], len(used)), used


class Mender:
    """Executes the plan of a repair for one mapping: restores tails, sends lines and appends lines.

    The caller holds the state directory's lock. `who` goes into the journal.
    """

    def __init__(
        self, shared: MappingContext, ledger: Ledger, late: OutOfOrderSender, who: str, clock: Callable[[], float]
    ) -> None:
        self._shared = shared
        self._ledger = ledger
        self._late = late
        self._who = who
        self._clock = clock

    def _note(self, what: str, facts: Facts) -> None:
        note(self._ledger, self._clock(), self._who, what, self._shared.mapping.stream.key, facts)

    def restore(self, end: TailRestore) -> None:
        """Puts back the tail that was cut off a file, for a repair.

        Raises SourceError: somebody else writes into the file, or it cannot be written.
        """
        path = self._shared.settings.root / end.source
        hint = "stop the programs that write it, and run it again"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                left = memoryview(end.raw)
                while left:
                    failpoint("repair.restore.before")
                    if os.fstat(fd).st_size != end.offset + len(end.raw) - len(left):
                        raise SourceError("was written to meanwhile", where=str(path), hint=hint)
                    left = left[os.write(fd, left[:MEND_BLOCK]) :]
                    failpoint("repair.restore.after")
            finally:
                os.close(fd)
        except OSError as error:
            raise SourceError(f"cannot be written: {error.strerror}", where=str(path)) from None
        self._note(
            "restored",
            {
                "file": end.source,
                "offset": end.offset,
                "bytes": len(end.raw),
                "lines": end.lines,
            },
        )

    def run(self, made: RepairPlan, numbers: Mapping[str, int]) -> Iterator[tuple[RepairAction, str]]:
        """Sends and appends the messages of a repair plan; yields each action that is done, and where the message is.

        `numbers`: of the sources, by name. After an error run parity and repair again.

        Raises RedisLost, RedisRefused, NotOwner, TargetError, LedgerError.
        """
        if self._shared.folder is not None:
            yield from self._files(made)
            return
        for act in made.of("send"):
            difference = act.difference
            here = Position(difference.place >> SHIFT, difference.place & OFFSETS)
            was = sent_as(self._ledger, self._shared.mapping.stream.key, difference.source, here)
            origin = Origin(numbers[difference.source], *was)
            text = b"%d.%d:%d" % origin
            entry = self._late.send(
                origin,
                difference.source,
                difference.row,
                self._shared.mapping.codec(difference.source),
                self._late.mark(text),
            )
            self._leave_range(difference)
            facts = {
                "file": difference.file,
                "line": difference.line,
                "offset": difference.offset,
                "origin": text.decode(),
                "entry": entry,
            }
            self._noted("sent", facts)
            yield act, f"entry {entry}"
        appends = made.of("append")
        if not appends:
            return
        mirror = self._late.finished()
        try:
            for act in appends:
                difference = act.difference
                line = (difference.expected or b"") + b"\n"
                self._late.write(
                    mirror, difference.source, line, [(parse_id((difference.entry or "").encode()), len(line))], []
                )
                self._noted("appended", {"file": difference.source, "entry": difference.entry, "bytes": len(line)})
                yield act, difference.source
        finally:
            mirror.close()

    def _files(self, made: RepairPlan) -> Iterator[tuple[RepairAction, str]]:
        """Sends and writes the messages of a repair plan for a folder with a file per message, a spool or artifacts."""
        stream, sends, appends = self._shared.mapping.stream.key, made.of("send"), made.of("append")
        for act in sends:
            forget_file(self._ledger, stream, act.difference.raw_name)
        if sends:
            self._late.carry_files()
        for act in sends:
            self._noted("sent", {"file": act.difference.file})
            yield act, "in the stream"
        mirror = self._late.finished() if appends else None
        for act in appends:
            entry_id, row = parse_id((act.difference.entry or "").encode()), act.difference.row
            fields = [part for pair in zip(FIELDS, row, strict=True) for part in pair]
            if mirror is None:
                continue
            name, content, reason = mirror.translator.line(Entry(entry_id, fields))
            if not reason:
                self._late.write(mirror, name, content, [(entry_id, len(content))], [])
                self._noted("appended", {"file": name, "entry": act.difference.entry, "bytes": len(content)})
            yield act, reason or name
        if mirror is not None:
            mirror.close()

    def _noted(self, what: str, facts: Facts) -> None:
        failpoint("repair.note.before")
        self._note(what, facts)
        failpoint("repair.note.after")

    def _leave_range(self, difference: Difference) -> None:
        """Releases a line that repair sent from the mirror's range that holds it, if any does.

        The entry that the line was mirrored from had been removed; from here on the line is file-born.
        """
        stream = self._shared.mapping.stream.key
        held = range_at(self._ledger, stream, difference.source, difference.place >> SHIFT, difference.place & OFFSETS)
        if held is None:
            return
        at = held.start
        gone = set()
        for entry_id, length in held.entries:
            if at == difference.place & OFFSETS:
                gone.add(entry_id)
            at += length
        tail = self._shared.tail(difference.source, self._ledger)
        tail.look()
        generation = tail.of_number(held.generation) or tail.reopen(held.generation)
        content = tail.read(generation, held.end - held.start, held.start) if generation is not None else b""
        if gone and len(content) == held.end - held.start:
            with self._ledger.transaction():
                release_lines(self._ledger, stream, held, content, gone)
