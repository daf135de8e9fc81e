"""Compares checkpoints and stream (DESIGN §6.1, P8): where does each source go on, and what did Redis lose?

Lost is not trimmed. Redis has lost something when the stream's last ID or its count of entries ever added has gone back
behind what the ledger saw, or its checkpoint has; what is missing otherwise was removed by somebody on purpose.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from bridge.carry.floor import last_of, passed_over
from bridge.carry.forks import KEPT, LineOf, began_anew, missing, what_was_lost
from bridge.carry.provenance import release
from bridge.ledger.mirrored import Range, Written, all_ranges, disown, intents_of, range_digest
from bridge.ledger.seen import Seen
from bridge.ledger.sources import SourceMemory, StreamMemory
from bridge.ledger.store import Ledger
from bridge.model import (
    FIELDS,
    ZERO_ID,
    Checkpoint,
    EntryId,
    Fingerprint,
    Origin,
    Position,
    after,
    before,
    format_id,
    paired,
    parse_id,
)
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.reader import StreamInfo, entries, existing, file_born, to_entries
from bridge.streams.trim import Gone, Trimmed, read_trimmed
from bridge.streams.writer import Books, read_stream

AT_ONCE = 1000
"""Entries of the mirror's that are looked for in the stream at once, about so many."""

Standing = dict[tuple[int, int], tuple[int, EntryId]]
"""(source number, generation) → highest offset whose entry stands in the stream, and that entry's ID."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a source goes on: at `checkpoint`, or behind the line at `behind`, or (both None) at the beginning.

    Up to `refill`, lines whose entry stands (`Compared.offsets`) are passed over: an entry vouches for its own line
    only, not for those before it.
    """

    checkpoint: Checkpoint | None = None
    behind: Position | None = None
    refill: Position | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison of ledger, checkpoints and stream found. `lost` says what Redis lost, in words; empty: nothing.

    `anew`: Redis lost all, and what stands in the stream was written since. `strangers` counts entries whose origin is
    not true.
    """

    books: Books
    info: StreamInfo
    lost: str
    anew: bool = False
    strangers: int = 0
    ahead: int = 0
    """How many entries of a stream that lost nothing name lines beyond the checkpoint: mostly others wrote them."""
    resume: dict[str, Resume] = field(default_factory=dict)
    standing: Standing = field(default_factory=dict)
    offsets: dict[tuple[int, int], set[int]] = field(default_factory=dict)
    sizes: dict[tuple[int, int], dict[int, int]] = field(default_factory=dict)
    """Bytes of data that the entries of `standing` and those beyond the checkpoint have, by generation and offset."""
    trimmed: Trimmed = field(default_factory=Trimmed)
    """What was trimmed on purpose of this stream; or of the stream before, where this one begins anew behind that."""
    began_behind: bool = False
    """Whether this stream begins anew behind what was trimmed of the stream before."""
    forked: bool = False
    """Whether entries that the bridge saw in the stream are not there: then an ID may stand for another entry."""
    seen: set[EntryId] = field(default_factory=set)
    """The entries that the bridge saw in the stream and that still stand."""
    parted: EntryId | None = None
    """The first entry that the bridge saw in the stream and that stands no more; None: none of the last ones is gone.

    What stands behind the one before it may be of another past, of which the mirror passed over what has a lower ID.
    """


def in_words(compared: Compared, stream: str) -> list[str]:
    """Says for the log what a comparison of checkpoints and stream found out of order, a sentence each. Pure."""
    said = []
    if compared.lost:
        said.append(f"{stream}: Redis lost its tail: {compared.lost}; it is refilled from the files")
    if compared.ahead:
        many = "1 entry names a line" if compared.ahead == 1 else f"{compared.ahead} entries name lines"
        said.append(f"{stream}: {many} that had not been sent: passed over, and all others are sent")
    if compared.strangers:
        said.append(
            f"{stream}: {compared.strangers} entries name an origin at which their file holds no such line;"
            " the cursor does not mind them"
        )
    return said


def _copied(
    connection: Connection, keys: Keys, memory: StreamMemory, info: StreamInfo, books: Books, floor: EntryId
) -> bool:
    """Whether Redis holds an older copy of stream and books, or one that lost its tail; else the stream is a new one.

    A copy begins where the stream did, or before, and holds entries that the books name. A new stream may hold such
    too, that were sent before anybody saw that it is new.
    """
    if info.first_id > memory.first_id > ZERO_ID or (memory.first_id == ZERO_ID and began_anew(memory, info)):
        return False
    noted = [Checkpoint.from_json(raw).entry for raw in books.checkpoint.values()]
    noted += [parse_id(json.loads(raw)["id"].encode()) for raw in books.mirror.values()]
    known = [one for one in noted if one is not None]
    if not info.length:
        return False
    return any(one < floor for one in known) or bool(existing(connection, keys.stream, known))


class Known(Protocol):
    """What tells whether a source can have sent what a checkpoint says."""

    def __call__(self, checkpoint: Checkpoint, *, seen: bool) -> bool:
        """Whether it can have sent just that; `seen`: the ledger has this checkpoint."""


Vouch = Callable[[Origin, list[bytes]], bool]
"""Tells whether an entry's origin can be true: its source's file holds there the line that the entry was made of."""


def compare(
    connection: Connection, keys: Keys, memory: StreamMemory | None, sources: dict[str, SourceMemory], vouch: Vouch,
    kept: Trimmed | None = None, seen: Sequence[Seen] = (),
    known: Mapping[str, Known] | None = None,
) -> Compared:  # fmt: skip
    """Reads the stream and Redis's books of it anew, finds out what Redis lost, and decides where each source goes on.

    Nothing lost: a source goes on at its checkpoint, passing over what stands in the stream beyond it (an evicted
    checkpoint, rights that let the entries in and kept the checkpoint out, an origin that somebody else named). Lost:
    behind its highest origin that still stands; or, where the stream began anew and others wrote into it before that
    was seen, from the beginning, passing over what stands. Anybody can write an origin, so one that moves the cursor
    has to be vouched for. `kept` is what was trimmed on purpose, as the ledger has it: never is anything sent from
    below that. `known`, by names, tells whether a source knows what its checkpoint says was sent.
    """
    info, books = read_stream(connection, keys)
    now = read_trimmed(connection, keys)
    forked, standing_seen = missing(connection, keys, seen, info, now.floor)
    lost = what_was_lost(memory, sources, info, books) or forked or _unknown(sources, books, known or {})
    anew = bool(lost) and memory is not None and not _copied(connection, keys, memory, info, books, now.floor)
    filling = any(source.refill is not None for source in sources.values())
    start = b"-" if lost or filling or memory is None else after(memory.last_id)
    behind = anew and kept is not None
    floor = kept if kept is not None and behind else now
    trimmed = ZERO_ID if anew else trimmed_to(connection, keys, info)
    best = {
        one.number: _best(name, one, books, lost) or Checkpoint(0, Fingerprint(0, 0, "", ""))
        for name, one in sources.items()
    }
    standing: Standing = {}
    offsets: dict[tuple[int, int], set[int]] = {}
    sizes: dict[tuple[int, int], dict[int, int]] = {}
    strangers = 0

    def walk(*, all_vouched: bool) -> None:
        nonlocal strangers
        standing.clear()
        offsets.clear()
        sizes.clear()
        for entry, origin in file_born(connection, keys.stream, start):
            where = (origin.source, origin.generation)
            if origin.source not in best:
                continue
            if all_vouched and not vouch(origin, entry.fields):
                strangers += 1
                continue
            high, further = where not in standing or origin.offset >= standing[where][0], beyond(where, origin.offset)
            if high:
                standing[where] = origin.offset, entry.id
            if lost or filling or further:
                offsets.setdefault(where, set()).add(origin.offset)
            if high or further:
                size, of = data_size(entry.fields), sizes.setdefault(where, {})
                if not further:  # of those before the checkpoint the highest alone
                    of.clear()
                of[origin.offset] = max(size, of.get(origin.offset, 0))

    def beyond(where: tuple[int, int], offset: int) -> bool:
        closed = books.generations.get(b"%d.%d" % where)
        end = best[where[0]].position if closed is None else Position(where[1], int(json.loads(closed)["size"]))
        return Position(where[1], offset) >= end

    def vouched(where: tuple[int, int], offset: int, entry_id: EntryId) -> bool:
        fields = existing(connection, keys.stream, [entry_id]).get(entry_id)
        return fields is None or vouch(Origin(*where, offset), fields)

    walk(all_vouched=anew or filling)
    if not all(vouched(where, *high) for where, high in standing.items() if lost or beyond(where, high[0])):
        walk(all_vouched=True)
    furthest = {name: _best(name, source, books, lost) for name, source in sources.items()}
    if lost:  # one is still true where the last entry of its batch stands, or was trimmed on purpose
        noted = [one.entry for one in furthest.values() if one is not None and one.entry is not None]
        stands = existing(connection, keys.stream, noted) if not anew else {}
        for name, one in furthest.items():
            if (
                one is not None
                and one.entry not in stands
                and not (one.entry and one.entry <= info.last_id and one.entry < trimmed)
            ):
                furthest[name] = None
    resume = {name: _resume(source, furthest[name], lost, anew, standing) for name, source in sources.items()}
    for name, source in sources.items() if behind else ():
        gone = floor.origins.get(source.number, Gone(None))
        refill = last_of((resume[name].refill, *gone.beyond))
        resume[name] = replace(resume[name], behind=last_of((resume[name].behind, gone.low)), refill=refill)
    for where, some in passed_over(floor).items() if behind or filling else ():
        offsets.setdefault(where, set()).update(some)
    ahead = 0 if lost or filling else sum(map(len, offsets.values()))
    return Compared(
        books,
        info,
        lost,
        anew,
        strangers,
        ahead,
        resume,
        standing,
        offsets,
        sizes,
        floor,
        behind,
        bool(forked),
        standing_seen,
        min((entry for entry, _ in sorted(seen)[-KEPT:] if entry not in standing_seen), default=None),
    )


def data_size(fields: list[bytes]) -> int:
    """How many bytes of data an entry of the stream has; 0 where it has none."""
    return len(paired(fields).get(FIELDS[3], b""))


def _unknown(sources: dict[str, SourceMemory], books: Books, known: Mapping[str, Known]) -> str:
    """Says in words that the stream's checkpoints tell of a past that is not the ledger's; empty: they do not."""
    for name, knows in known.items():
        raw = books.checkpoint.get(os.fsencode(name))
        checkpoint = Checkpoint.from_json(raw) if raw else Checkpoint(0, Fingerprint(0, 0, "", ""))
        if not knows(checkpoint, seen=name in sources and sources[name].stored == raw):
            return f"its checkpoint of {name} is not of what the ledger knows to have been sent"
    return ""


def _best(name: str, source: SourceMemory, books: Books, lost: str) -> Checkpoint | None:
    """The furthest checkpoint of a source: Redis's, or the ledger's copy while Redis lost nothing."""
    raw = books.checkpoint.get(os.fsencode(name))
    best = Checkpoint.from_json(raw) if raw else None
    if not lost and source.stored:
        ours = Checkpoint.from_json(source.stored)
        best = ours if best is None or ours.position > best.position else best
    return best


def _resume(source: SourceMemory, best: Checkpoint | None, lost: str, anew: bool, standing: Standing) -> Resume:
    high = max((Position(g, o) for (s, g), (o, _) in standing.items() if s == source.number), default=None)
    if anew and high is not None:
        return Resume(refill=high)
    if source.refill is not None and not lost:
        return Resume(best, refill=source.refill)
    if high is not None and (best is None or high >= best.position):
        return Resume(best, high) if lost else Resume(best, refill=high)
    return Resume(best)


def number_for(name: bytes, books: Books, taken: list[int]) -> int:
    """The short number that stands for a source in origins: as Redis has it, or the next one. Pure."""
    found = books.sources.get(name)
    return int(found) if found is not None else max([*taken, *map(int, books.sources.values())], default=0) + 1


@dataclass(frozen=True, slots=True)
class Refilled:
    """What was taken out of the ledger after Redis lost entries: lines to send again, and where the mirror goes on.

    `late`: the entries whose lines it writes behind those of entries that came after them.
    """

    released: int
    mirror_cursor: EntryId
    late: tuple[EntryId, ...] = ()

    def in_words(self) -> str:
        """Says for the log how many mirrored lines are sent again after a loss, and where the mirror goes on."""
        many = "1 mirrored line is" if self.released == 1 else f"{self.released} mirrored lines are"
        goes_on = f"behind entry {_text(self.mirror_cursor)}" if self.mirror_cursor > ZERO_ID else "from the beginning"
        return f"{many} sent again as the file's own; the mirror goes on {goes_on}"


ReadRange = Callable[[Range], bytes]
"""Reads a range's bytes as its file holds them; empty when the file is gone."""


def forget_lost(
    connection: Connection, keys: Keys, ledger: Ledger, compared: Compared, read: ReadRange, line_of: LineOf
) -> Refilled:
    """Removes from the mirror's ranges, inside a ledger transaction, lines whose entry is gone: forward sends them.

    Lines of an open intent too, be they written yet or not. The mirror's cursor falls back to its highest noted ID that
    still exists. In another past an ID may stand for another entry, the line tells; and entries may stand in it below
    what the mirror had read of the old one, so the cursor falls behind the first of those.
    """
    stream = keys.stream.decode()
    removed = ZERO_ID if compared.anew else trimmed_to(connection, keys, compared.info)
    trimmed = max(removed, compared.trimmed.floor)
    verified: set[EntryId] = set()
    parted = [compared.parted] if compared.parted is not None else []
    released = 0

    def standing_of(written: Iterable[list[Written]]) -> dict[EntryId, list[bytes]]:
        noted = [entry_id for some in written for entry_id, _ in some if entry_id != ZERO_ID]
        return existing(connection, keys.stream, noted)

    def lost(
        content: bytes, written: list[Written], standing: dict[EntryId, list[bytes]], alone: bytes = b""
    ) -> set[EntryId]:
        gone: set[EntryId] = set()
        at = 0
        for entry_id, length in written:
            line, at = content[at : at + length], at + length
            fields = standing.get(entry_id)
            made = line_of(fields) if fields is not None else None  # its path may be another one by now
            same = made is not None and (range_digest(made[1]) == alone if alone else made[1] == line)
            told = content or alone
            if fields is not None and (same or not (compared.anew or compared.forked) or not told):
                verified.add(entry_id)
            elif entry_id >= trimmed and entry_id != ZERO_ID:
                gone.add(entry_id)
        return gone

    for intent in intents_of(ledger, stream):
        gone = lost(intent.content, intent.entries, standing_of([intent.entries]))
        parted += gone
        if gone:
            released += len(gone)
            disown(ledger, intent.id, [(ZERO_ID if i in gone else i, length) for i, length in intent.entries])
    for some in _together(all_ranges(ledger, stream)):
        standing = standing_of(span.entries for span in some)
        for span in some:
            alone = span.digest if len(span.entries) == 1 else b""  # then its digest tells all: no file has to be read
            content = read(span) if not alone else b""
            gone = lost(content if range_digest(content) == span.digest else b"", span.entries, standing, alone)
            parted += gone
            if gone:
                released += release(ledger, stream, span, content, gone)
    cursor = max(verified, default=before(compared.trimmed.floor))
    if compared.anew or parted:
        known = [entry_id for entry_id in verified if parted and entry_id < min(parted)] if not compared.anew else []
        start = after(max(known)) if known else b"-"
        among = entries(connection, keys.stream, start, format_id(cursor))
        late = tuple(entry.id for entry in among if entry.id not in verified and entry.origin() is None)
        if late:
            return Refilled(released, before(late[0]), late)
    return Refilled(released, cursor)


def _together(spans: Iterable[Range]) -> Iterator[list[Range]]:
    """Cuts ranges into parts of about a thousand entries: the ledger is locked, and each question takes a while."""
    some, count = list[Range](), 0
    for span in spans:
        some.append(span)
        count += len(span.entries)
        if count >= AT_ONCE:
            yield some
            some, count = [], 0
    if some:
        yield some


def trimmed_to(connection: Connection, keys: Keys, info: StreamInfo) -> EntryId:
    """The ID of the first entry that stands in the stream, where some below it were trimmed; 0-0 where none were."""
    first = to_entries(connection.call("XRANGE", keys.stream, "-", "+", "COUNT", 1))
    return first[0].id if first and info.added > info.length else ZERO_ID


def _text(entry_id: EntryId) -> str:
    return format_id(entry_id).decode()
