"""Releases the mirror's lines whose entries Redis lost, so that forward sends them, and moves its cursor back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from bridge.continuity.lost_entries import LineOf
from bridge.core.model import HIGHEST_ID, ZERO_ID, EntryId, Position, after, before, format_id
from bridge.kinds.provenance import release_lines
from bridge.kinds.resume import Reconciliation
from bridge.ledger.ranges import Range, WrittenEntry, all_ranges, disown, intents_of, range_digest
from bridge.ledger.sources import stream_memory
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.reader import entries, existing
from bridge.streams.trim import trimmed_to

LOOKUP_ENTRIES = 1000
"""About how many of the mirror's entries are looked up in the stream at once."""


@dataclass(frozen=True, slots=True)
class LostLines:
    """The lost lines: mirrored lines whose entries Redis lost, taken out of the ledger, and where the mirror goes on.

    `late`: the entries whose lines the mirror writes after those of later entries. `first`: where in each file the
    first of the lines to send again begins.
    """

    released: int
    mirror_cursor: EntryId
    first: dict[str, Position]
    late: tuple[EntryId, ...] = ()

    def in_words(self) -> str:
        """Says for the log how many lost mirrored lines are sent again, and where the mirror goes on."""
        many = "1 mirrored line is" if self.released == 1 else f"{self.released} mirrored lines are"
        cursor = self.mirror_cursor
        goes_on = f"behind entry {format_id(cursor).decode()}" if cursor > ZERO_ID else "from the beginning"
        return f"{many} sent again as the file's own; the mirror goes on {goes_on}"


ReadRange = Callable[[Range], bytes]
"""Reads a range's bytes as its file holds them; empty when the file is gone."""


def forget_lost(
    connection: Connection, keys: Keys, ledger: Ledger, compared: Reconciliation, read: ReadRange, line_of: LineOf
) -> LostLines:
    """Removes from the mirror's ranges, inside a ledger transaction, lines whose entries are lost: forward sends them.

    Lines of an open intent too, written or not. The mirror's cursor falls back to its highest noted ID that still
    exists. In another past an ID may stand for another entry, which the line tells; and that past may have entries
    below what the mirror had read of the old one, so the cursor falls back to before the first of those.
    """
    stream = keys.stream.decode()
    removed = ZERO_ID if compared.anew else trimmed_to(connection, keys, compared.info)
    trimmed = max(removed, compared.trimmed.floor)
    verified: set[EntryId] = set()
    parted = [compared.parted] if compared.parted is not None else list[EntryId]()
    first = dict[str, Position]()
    released = 0

    def standing_of(written: Iterable[list[WrittenEntry]]) -> dict[EntryId, list[bytes]]:
        noted = [entry_id for some in written for entry_id, _ in some if entry_id != ZERO_ID]
        return existing(connection, keys.stream, noted)

    def lost(
        content: bytes, written: list[WrittenEntry], standing: dict[EntryId, list[bytes]], alone: bytes = b""
    ) -> set[EntryId]:
        gone: set[EntryId] = set()
        at = 0
        for entry_id, length in written:
            line, at = content[at : at + length], at + length
            fields = standing.get(entry_id)
            made = line_of(fields) if fields is not None else None  # the path may have changed since
            same = made is not None and (range_digest(made[1]) == alone if alone else made[1] == line)
            told = content or alone
            if fields is not None and (same or not (compared.anew or compared.forked) or not told):
                verified.add(entry_id)
            elif entry_id >= trimmed and entry_id != ZERO_ID:
                gone.add(entry_id)
        return gone

    for intent in intents_of(ledger, stream):
        gone = lost(intent.content, intent.entries, standing_of([intent.entries]))
        now = [(ZERO_ID if entry_id in gone else entry_id, length) for entry_id, length in intent.entries]
        anew = gone.intersection(entry_id for entry_id, _ in intent.standing)
        released, parted = released + len(anew), [*parted, *anew]
        if now != intent.standing:
            disown(ledger, intent.id, now)
    for some in _together(all_ranges(ledger, stream)):
        standing = standing_of(span.entries for span in some)
        for span in some:
            alone = span.digest if len(span.entries) == 1 else b""  # then its digest tells all: no file has to be read
            content = read(span) if not alone else b""
            gone = lost(content if range_digest(content) == span.digest else b"", span.entries, standing, alone)
            parted += gone
            if gone:
                begins = _begins(span, gone)
                first[span.name] = min(begins, first.get(span.name, begins))
                released += release_lines(ledger, stream, span, content, gone)
    cursor = max(verified, default=before(compared.trimmed.floor))
    memory = stream_memory(ledger, stream)
    was = memory.mirror_cursor if memory is not None else ZERO_ID
    if compared.anew or parted or was < cursor:
        known = [entry for entry in verified if entry <= was and entry < min(parted, default=HIGHEST_ID)]
        known = [] if compared.anew else known
        start = after(max(known)) if known else b"-"
        among = entries(connection, keys.stream, start, format_id(cursor))
        late = tuple(entry.id for entry in among if entry.id not in verified and entry.origin() is None)
        if late:
            return LostLines(released, before(late[0]), first, late)
    return LostLines(released, cursor, first)


def _together(spans: Iterable[Range]) -> Iterator[list[Range]]:
    """Groups the mirror's ranges by about a thousand entries, to look for lost entries with few requests."""
    some, count = list[Range](), 0
    for span in spans:
        some.append(span)
        count += len(span.entries)
        if count >= LOOKUP_ENTRIES:
            yield some
            some, count = [], 0
    if some:
        yield some


def _begins(span: Range, gone: set[EntryId]) -> Position:
    """Returns where in a range of the mirror the first line begins whose entry Redis lost. Pure."""
    at = span.start
    for entry_id, length in span.entries:
        if entry_id in gone:
            break
        at += length
    return Position(span.generation, at)
