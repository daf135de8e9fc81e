"""Parity of a spool (a folder with a file per message) with its stream: compares messages by content, not file name.

Both sides are read anew. The ledger is asked only about what does not agree: a file may have been rewritten or taken
away since, and then the digest of what was sent tells whether the entry is what the file was.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from bridge.core.config import Settings
from bridge.core.mapping import Mapping
from bridge.core.model import ZERO_ID, EntryId, Origin, Row, digest, parse_id, shown_name
from bridge.files.folder import MessageFolder
from bridge.ledger import spool_messages
from bridge.ledger.quarantine import find_quarantined
from bridge.ledger.ranges import range_digest, range_of, ranges_of
from bridge.ledger.scratch_table import ScratchFile, ScratchTable
from bridge.ledger.store import Ledger
from bridge.parity.log.classify import Difference
from bridge.parity.log.compare import MOST_DIFFERENCES
from bridge.parity.log.tally import ComparisonTally, LateMarks
from bridge.parity.log.witness_check import WitnessCheck
from bridge.parity.proof_point import ProofPoint
from bridge.parity.prove import Interrupted, ParityCheck, entry_parts
from bridge.parity.result import ParityResult, verdict_of
from bridge.parity.snapshot import Cursors
from bridge.parity.statistics import MessageStatistics
from bridge.parity.whole_file_account import WholeFileAccount
from bridge.streams.connect import Connection


class SpoolCheck(ParityCheck):
    """Parity check of one mapping whose source is a spool: a folder with a file per message."""

    def _of_both(self, since: ProofPoint | None, connection: Connection, marks: Connection) -> ParityResult | None:
        if since is not None:
            return None  # there is no position in a folder to go on from
        cursors = Cursors(self._mapping, self._settings, connection, self._keys, self._ledger)
        cursors.say_who()
        late = LateMarks(marks, self._keys.late) if cursors.marked else None
        with closing(_FolderComparison(self._mapping, self._settings, self._ledger, cursors, late)) as comparison:
            comparison.read_folder(self._pause)
            for rows in self._entries(connection, cursors.last, cursors.length):
                comparison.feed(rows)
            comparison.finish()
        too_much, account = comparison.witness.too_much(), comparison.account
        account.of_stream(cursors.length, cursors.added, cursors.trimmed.count)
        differs = too_much or any(account.unaccounted())
        verdict = "differs" if differs else verdict_of(comparison.tally, cursors.length)
        result = ParityResult(self._mapping.name, self._mapping.stream.key, verdict, comparison.tally)
        result.account = account
        result.too_much = too_much
        result.files, result.entry, result.unit = {self._mapping.source.path: comparison.batch}, cursors.last, "batch"
        result.alive = cursors.alive
        result.notes, result.lost = cursors.notes + too_much, cursors.lost
        result.stats = comparison.stats if self._stats else None
        return result

    def _pause(self) -> None:
        if self._stop.is_set():
            raise Interrupted


class _FolderComparison:
    """Compares a spool's folder with its stream: files are read first into a table, then entries claim them."""

    def __init__(
        self, mapping: Mapping, settings: Settings, ledger: Ledger | None, cursors: Cursors, late: LateMarks | None
    ) -> None:
        self.tally = ComparisonTally(marked=bool(cursors.marked))
        self.account = WholeFileAccount()
        self.stats = MessageStatistics()
        self.batch = cursors.books.batch(mapping.source.path)
        self._mapping = mapping
        self._ledger = ledger
        self._cursors = cursors
        self._late = late
        self._stream = mapping.stream.key
        self._folder = MessageFolder(settings.root, mapping.files, mapping.source.exclude)
        self._documents = ScratchTable()
        self._limit = mapping.format.max_line_bytes
        self._whole = mapping.message.data is None
        self._born, self._mirrored = (hashlib.blake2b(digest_size=16) for _ in range(2))
        self._first: Origin | None = None
        self._last: Origin | None = None
        self._trimmed = cursors.added > cursors.length
        said = cursors.books.mirror if cursors.mirrored else {}
        self.witness = WitnessCheck(said, cursors.added - cursors.length, ZERO_ID, whole=mapping.source.path)

    def close(self) -> None:
        """Closes the spool comparison's scratch table of the folder's files."""
        self._documents.close()

    # -- the folder ------------------------------------------------------------------------------------------

    def read_folder(self, pause: Callable[[], None]) -> None:
        """Reads all files of a spool's folder into the scratch table.

        Files that are no message, or not complete, are only counted.
        """
        for some in self._folder.scan():
            self.account.total += len(some)
            self._documents.add(self._read(found.name for found in some))
            pause()

    def _read(self, names: Iterator[bytes]) -> Iterator[ScratchFile]:
        for name in names:
            taken = self._folder.read(name, self._limit + 1)
            if taken is None or len(taken.raw) > self._limit:
                self._not_a_message(name, gone=taken is None)
                continue
            message = self._mapping.document(os.fsdecode(name), taken.facts.written).read(taken.raw)
            if isinstance(message.row, str):
                self._not_a_message(name, gone=False)
                continue
            if not taken.raw:
                self.account.add("empty")
                continue  # a text that nobody has written yet
            yield ScratchFile(name, message.identity or b"", digest(*message.row))

    def _not_a_message(self, name: bytes, *, gone: bool) -> None:
        aside = (
            find_quarantined(self._ledger, self._stream, name=shown_name(name)) if self._ledger is not None else None
        )
        if aside is not None or (self._ledger is None and not gone):
            self.tally.quarantined += 1
            self.account.add("quarantined")
        else:
            self.tally.in_flight += 1
            self.account.add("waiting")

    # -- the stream ------------------------------------------------------------------------------------------

    def feed(self, rows: list[Any]) -> None:
        """Takes a page of the stream, whose entries each claim the spool's file that holds the same message."""
        for raw_id, fields in rows:
            if fields is None:
                continue
            self.tally.entries += 1
            raw, origin, row = entry_parts(fields)
            if raw is not None and (origin is None or row is None):
                self.tally.quarantined += 1
            elif origin is not None and row is not None:
                self._file_born(raw_id, origin, raw or b"", row)
            else:
                self._redis_born(raw_id, row)

    def _file_born(self, entry: bytes, origin: Origin, raw: bytes, row: Row) -> None:
        self._first = min(origin, self._first or origin)
        name = self._documents.claim(digest(*row))
        self.account.add("carried", int(name is not None))
        sent = None
        if self._ledger is not None:
            sent = spool_messages.digest_at(self._ledger, self._stream, origin.generation, origin.offset)
        if name is not None and sent is not None and sent != digest(*row):  # another message was sent from this origin
            self._differ(Difference("reordered", shown_name(name), None, None, entry.decode(), row[3], row[3], row=row))
            return
        behind = self._last is not None and origin <= self._last and not (self._late and self._late([raw]))
        if name is None:
            vouched = sent == digest(*row)
            name = self._touched(origin, row) if vouched else None
            name = name or self._not_as_it_was(entry, row, file_born=True, vouched=vouched, behind=behind)
            if name is None and not vouched:
                return
        self._last = max(origin, self._last or origin)
        if name is None:
            return
        if behind:
            self._differ(Difference("reordered", shown_name(name), None, None, entry.decode(), row[3], row[3], row=row))
            return
        self.tally.file_born += 1
        self._agree(self._born, name, row)

    def _touched(self, origin: Origin, row: Row) -> bytes | None:
        """Finds the spool's file of a message of which only the file's time changed; None: there is none.

        Only for messages that take their time from their file.
        """
        if self._ledger is None or self._mapping.message.id is not None or not self._whole:
            return None
        for name in spool_messages.files_of(self._ledger, self._stream, origin.generation, origin.offset):
            taken = self._folder.read(name, self._limit)
            if taken is not None and taken.raw == row[3] and self._documents.take(name):
                self.tally.rewritten += 1
                self.account.add("carried")
                return name
        return None

    def _agree(self, hasher: Any, name: bytes, row: Row) -> None:
        hasher.update(row[3] + b"\n")
        self.stats.add(self._mapping.document(os.fsdecode(name)), [row[3]])

    def _not_as_it_was(
        self, entry: bytes, row: Row, *, file_born: bool, vouched: bool, behind: bool = False
    ) -> bytes | None:
        """Decides what became of an entry's file in a spool, when no file holds exactly the entry's message.

        The file was rewritten or taken away since, which the ledger can vouch for; or it differs. Returns the file's
        name where it is the same message all the same. `behind`: the entry's place, or a later one, has an entry
        already.
        """
        identity = self._identity(row)
        found = self._documents.same(identity, digest(*row))
        claimed = found is not None and found[1]
        if (claimed and (identity or not vouched)) or (vouched and behind and (found is None or claimed)):
            name = shown_name(found[0]) if found is not None else None
            self._differ(Difference("duplicate", name, None, None, entry.decode(), row[3], row[3], row=row))
        elif found is not None and not found[1] and vouched:
            self._documents.take(found[0])
            self.tally.rewritten += 1
            self.account.add("carried" if file_born else "mirrored")
            return found[0]
        elif found is not None and not found[1]:
            self._documents.take(found[0])
            taken = self._folder.read(found[0], self._limit)
            raw = taken.raw if taken is not None else None
            expected, actual = (raw, row[3]) if file_born else (row[3], raw)
            name = shown_name(found[0])
            self.account.lost(name, "its entry says something else")
            self._differ(Difference("altered", name, None, None, entry.decode(), expected, actual, row=row,
                                    file_born=file_born))  # fmt: skip
        elif vouched:
            self.tally.taken_away += 1
        else:
            self._differ(Difference("missing_in_file", None, None, None, entry.decode(), row[3], None, row=row,
                                    file_born=file_born))  # fmt: skip
        return None

    def _identity(self, row: Row) -> bytes:
        if not self._whole or self._mapping.message.id is None:
            return b""
        return self._mapping.document("x").read(row[3]).identity or b""

    def _redis_born(self, entry: bytes, row: Row | None) -> None:
        entry_id = parse_id(entry)
        mirrored = self._cursors.mirrored
        content = self._expected(row) if row is not None and mirrored else None
        if content is not None:
            self.witness.born(self._mapping.source.path, [entry], [content], 0)
        name = self._documents.claim(digest(*row)) if row is not None and mirrored else None
        self.account.add("mirrored", int(name is not None))
        if name is None:
            if mirrored and self._aside(entry):
                self.tally.quarantined += 1
                return
            held = range_of(self._ledger, self._stream, entry_id) if mirrored and self._ledger is not None else None
            if held is None and (not mirrored or entry_id > self._cursors.mirrored_to):
                self._waiting(entry_id)
                return
            if row is None or content is None:
                self.tally.quarantined += 1
                return
            vouched = held is not None and held[0].digest == range_digest(content)
            name = self._not_as_it_was(entry, row, file_born=False, vouched=vouched)
            if name is None:
                return
        if row is not None:
            self.tally.redis_born += 1
            self._agree(self._mirrored, name, row)

    def _waiting(self, entry_id: EntryId) -> None:
        if not self._cursors.dual:
            self.tally.not_mirrored += 1
            return
        self.tally.in_flight += 1
        self.tally.oldest_ms = min(self.tally.oldest_ms or entry_id[0], entry_id[0])

    def _aside(self, entry: bytes) -> bool:
        if self._ledger is None:
            return False
        found = find_quarantined(self._ledger, self._stream, entry_id=entry.decode())
        return found is not None and not found.retried

    def _expected(self, row: Row) -> bytes | None:
        """Returns the bytes that the spool's file of a Redis-born entry must hold; None: the entry can be no file.

        The file's name is assumed not to matter.
        """
        if self._mapping.format.pattern is not None:
            return row[3]
        content = self._mapping.document("x").encode(row)
        return content if isinstance(content, bytes) and 0 < len(content) <= self._limit else None

    # -- the end ---------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Ends a spool's comparison: files no entry claimed are copies, in flight, unverifiable or missing in Redis."""
        for file in self._documents.left():
            if file.identity and self._documents.claimed(file.identity):
                self.tally.copies += 1  # another file with the same identity is the message
                self.account.add("copies")
                continue
            known = spool_messages.carried(self._ledger, self._stream, file.name) if self._ledger is not None else None
            if known is None or known[0] > self.batch or self._under_way(known[2]):
                self.tally.in_flight += 1
                self.account.add("waiting")
            elif self._trimmed and known[0] and (self._first is None or known[:2] < self._first[1:]):
                self.tally.unverifiable += 1
                self.account.add("carried")
                why = "trimmed: entries were removed from the stream"
                self.tally.why[why] = self.tally.why.get(why, 0) + 1
            else:
                taken = self._folder.read(file.name, self._limit)
                raw = taken.raw if taken is not None else None
                message = self._mapping.document(os.fsdecode(file.name)).read(raw or b"")
                row = message.row if isinstance(message.row, tuple) else ()
                self.account.lost(shown_name(file.name), "no entry says what it says")
                self._differ(
                    Difference("missing_in_redis", shown_name(file.name), None, None, None, raw, None, row=row,
                               raw_name=file.name)
                )  # fmt: skip
        self.tally.digest = hashlib.blake2b(self._born.digest() + self._mirrored.digest(), digest_size=16).hexdigest()

    def _under_way(self, mark: str) -> bool:
        """Whether the mirror wrote a spool's file for an entry that came after the stream's end as parity read it."""
        if not mark or self._ledger is None:
            return False
        generation, _, path = mark.partition(":")
        held = [span for span in ranges_of(self._ledger, self._stream, path) if span.generation == int(generation)]
        ids = [entry_id for span in held for entry_id, _ in span.entries]
        return max(ids, default=ZERO_ID) > self._cursors.last

    def _differ(self, difference: Difference) -> None:
        if len(self.tally.differences) < MOST_DIFFERENCES:
            self.tally.differences.append(difference)
        else:
            self.tally.uncounted[difference.kind] = self.tally.uncounted.get(difference.kind, 0) + 1
