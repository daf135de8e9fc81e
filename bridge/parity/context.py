"""Parity of contexts: the joined chunks of each generation must be the growing file's bytes, without gap or overlap.

For a generation whose bytes are gone, because the file was emptied, the digests in Redis and in the ledger tell whether
the chunks are what stood there.
"""

from __future__ import annotations

import hashlib
from typing import Any

from bridge.core.codecs.chunk import STARTED, ChunkCodec
from bridge.core.mapping import Mapping
from bridge.core.model import Row, hex_digest
from bridge.core.wording import counted
from bridge.files.content import HEAD_BYTES
from bridge.files.generation import TAIL
from bridge.parity.account import ByteAccount
from bridge.parity.log.classify import Difference
from bridge.parity.log.generations import RecordedGeneration
from bridge.parity.log.items import SHIFT, ComparedFile
from bridge.parity.log.tally import ComparisonTally
from bridge.parity.proof_point import ProofPoint
from bridge.parity.prove import ParityCheck, entry_parts
from bridge.parity.result import ParityResult, verdict_of
from bridge.parity.snapshot import Snapshot
from bridge.streams.connect import Connection


class ContextCheck(ParityCheck):
    """Parity check that compares the contexts of a mapping, which grow by chunks, with their stream."""

    def _prove(
        self, view: Snapshot, since: ProofPoint | None, connection: Connection, marks: Connection
    ) -> ParityResult | None:
        if since is not None:
            return None
        comparison = _ChunkComparison(self._mapping, view)
        for rows in self._entries(connection, view.last, view.length):
            comparison.feed(rows)
        comparison.finish()
        account = self._account(comparison.account, view)
        verdict = "differs" if any(account.unaccounted()) else verdict_of(comparison.tally, view.length)
        result = ParityResult(self._mapping.name, self._mapping.stream.key, verdict, comparison.tally)
        result.account = account
        result.files, result.entry = view.positions(comparison.places()), view.last
        gone = tuple(f"generation {number} of {name} is gone" for name, of in view.gone.items() for number in of)
        result.notes, result.lost = [note for note in view.notes if note not in gone], view.lost
        result.alive = view.alive
        if comparison.tally.taken_away:
            many = counted(comparison.tally.taken_away, "chunk")
            result.notes.append(f"{many} of contexts that were emptied since; they are what the files held before")
            comparison.tally.taken_away = 0
        return result


class _JoinedChunks:
    """Joins the chunks of one generation of a context as they come, and keeps the bytes at both ends.

    `at` is the offset where the next chunk must begin.
    """

    def __init__(
        self, name: str, source: int, number: int, known: RecordedGeneration | None, file: ComparedFile | None
    ) -> None:
        self.name = name
        self.source = source
        self.number = number
        self.known = known
        self.file = file
        self.at = 0
        self.count = 0
        self.head = b""
        self.tail = b""
        self.broken = False
        self.cut = False
        """Whether the entries before the first chunk that is there were trimmed."""
        self.began = False
        """Whether an entry said that the generation begins; also set where the entries before were trimmed."""

    def take(self, data: bytes) -> None:
        """Appends the bytes of a context's next chunk to the joined chunks of its generation."""
        self.head += data[: max(0, HEAD_BYTES - len(self.head))]
        self.tail = (self.tail + data)[-TAIL:]
        self.at += len(data)
        self.count += 1

    def vouched(self) -> bool | None:
        """Whether the joined chunks of a context are, to the end, what was recorded of their generation.

        None: too few chunks are left to tell.
        """
        at = self.known.at if self.known is not None else None
        if at is None or self.broken or self.at != at.offset:
            return False
        back = min(TAIL, at.offset)
        if self.cut and len(self.tail) < back:
            return None
        begins = self.cut or hex_digest(self.head[: at.head_len]) == at.head
        return begins and hex_digest(self.tail[-back:] if back else b"") == at.tail


class _ChunkComparison:
    """Compares contexts with their chunks, fed with the stream page by page."""

    def __init__(self, mapping: Mapping, view: Snapshot) -> None:
        self.tally = ComparisonTally(marked=bool(view.marked))
        self.account = ByteAccount()
        self._mapping = mapping
        self._view = view
        self._joined: dict[tuple[int, int], _JoinedChunks] = {}
        self._trimmed = view.added > view.length
        self._first: dict[int, int] = {}
        """The generation of the first chunk of each source."""
        self._latest: dict[int, int] = {}
        """The newest generation of each source of which a chunk was met."""
        self._heads: dict[str, tuple[bytes, bytes]] = {}
        """Role and type of a context's chunks, by its name."""
        self._hasher = hashlib.blake2b(digest_size=16)
        for number, name in sorted(view.numbers.items()):
            found = view.sources.get(name)
            files = {file.generation: file for file in found.files} if found is not None else {}
            for number_of in found.changed if found is not None else ():
                if not any(recorded.number == number_of and not recorded.closed for recorded in view.known(name)):
                    files.pop(number_of, None)  # equal at one end only: no proof that it is the same file
            known = {recorded.number: recorded for recorded in view.known(name)}
            for generation in sorted({*files, *known}):
                self._joined[number, generation] = _JoinedChunks(
                    name, number, generation, known.get(generation), files.get(generation)
                )

    def feed(self, rows: list[Any]) -> None:
        """Takes a page of the stream, and compares each chunk with the context's bytes at the chunk's origin."""
        for raw_id, fields in rows:
            if fields is None:
                continue
            self.tally.entries += 1
            raw, origin, row = entry_parts(fields)
            if raw is None:
                self.tally.not_mirrored += 1
                continue
            if origin is None or row is None:
                self.tally.quarantined += 1
                continue
            joined = self._joined.get((origin.source, origin.generation))
            name = self._view.numbers.get(origin.source)
            if joined is None and name is not None:  # the generation is recorded nowhere any more
                joined = _JoinedChunks(name, origin.source, origin.generation, None, None)
                self._joined[origin.source, origin.generation] = joined
            if joined is None:
                self._differ("missing_in_file", None, origin.offset, raw_id, row[3], None, row)
            else:
                self._chunk(joined, origin.offset, raw_id, row)

    def _expected(self, name: str, data: bytes) -> tuple[bytes, bytes]:
        """Returns the role and type that a chunk of a context must have; without data, the type is `STARTED`."""
        if name not in self._heads:
            codec = self._mapping.codec(name)
            row = codec.row(b"x", b"") if isinstance(codec, ChunkCodec) else (b"", b"", b"", b"")
            self._heads[name] = row[0], row[2]
        role, kind = self._heads[name]
        return role, kind if data else STARTED

    def _chunk(self, joined: _JoinedChunks, offset: int, entry: bytes, row: Row) -> None:
        data = row[3]
        if joined.source not in self._first:
            self._first[joined.source] = joined.number
            if self._trimmed and (offset > joined.at or (data and joined.number > 1)):  # what was before it was removed
                self._explained(joined, offset - joined.at)
                joined.at, joined.cut, joined.began = offset, True, True
                self._was_trimmed()
        latest = self._latest.setdefault(joined.source, joined.number)
        self._latest[joined.source] = max(latest, joined.number)
        if joined.number < latest:
            self._differ("reordered", joined, offset, entry, data, data, row)
            return
        head = (row[0], row[2]) == self._expected(joined.name, data)
        if not data and not offset:
            if joined.began or joined.at or not head:
                self._differ("altered" if not head else "duplicate", joined, offset, entry, data, data, row)
                joined.began = True
                return
            joined.began = True
            self.tally.file_born += 1
            return  # it says that the file began anew
        if joined.number > 1 and not joined.began and not joined.at:
            self._differ("missing_in_redis", joined, 0, None, b"", None, ())
        if offset < joined.at:
            self._differ("duplicate", joined, offset, entry, data, data, row)
            return
        if offset > joined.at:
            self._gap(joined, offset)
        joined.take(data)
        if not head:
            self._explained(joined, len(data))
            self._differ("altered", joined, offset, entry, data, data, row)
            return
        if joined.file is None:
            return  # judged by its digests, at the end
        there = b"".join(joined.file.section(offset, offset + len(data)))
        if there != data:
            self.account.lost(joined.file, offset, len(there))
            self._differ("altered", joined, offset, entry, there, data, row)
            return
        self.tally.file_born += 1
        self._explained(joined, len(data))
        self._hasher.update(data)

    def _explained(self, joined: _JoinedChunks, size: int) -> None:
        """Notes in the account that a chunk explains so many bytes of a context's file, or did until it was trimmed."""
        if joined.file is not None:
            self.account.add(joined.file, "carried", size)

    def _gap(self, joined: _JoinedChunks, end: int) -> None:
        """Notes as missing in Redis the bytes of a context between two chunks of a generation, which no chunk holds."""
        joined.broken = True
        start = joined.at
        missing = None
        if joined.file is not None:
            missing = b"".join(joined.file.section(start, min(end, start + 4096)))
            self.account.lost(joined.file, start, end - start)
        self._differ("missing_in_redis", joined, start, None, missing, None, ())
        joined.at = end

    def places(self) -> dict[str, int]:
        """Returns for each context the place up to which its chunks were compared."""
        found: dict[str, int] = {}
        for joined in self._joined.values():
            found[joined.name] = max(found.get(joined.name, -1), (joined.number << SHIFT) + joined.at)
        return found

    def finish(self) -> None:
        """Ends the comparison of contexts: bytes in no chunk are missing in Redis if they are due, else in flight."""
        for joined in self._joined.values():
            due = joined.known.at.offset if joined.known is not None else 0
            if joined.file is None:
                self._gone(joined, due)
                continue
            if joined.at < due and self._trimmed and joined.number < self._first.get(joined.source, 1 << 60):
                self._explained(joined, due - joined.at)
                self._was_trimmed()
            elif joined.at < due:
                self._gap(joined, due)
            rest = max(joined.at, due)
            self.tally.in_flight += any(joined.file.section(rest, rest + 1))
            size = self._view.size_of(joined.file)
            self.account.whole(joined.file, size, max(0, size - rest))
        self.tally.digest = self._hasher.hexdigest()

    def _was_trimmed(self) -> None:
        why = "trimmed: entries were removed from the stream"
        self.tally.unverifiable += 1
        self.tally.why[why] = self.tally.why.get(why, 0) + 1

    def _gone(self, joined: _JoinedChunks, due: int) -> None:
        whole = self._trimmed and not joined.count and joined.number < self._first.get(joined.source, 1 << 60)
        vouched = joined.vouched()
        if vouched and not whole:
            self.tally.taken_away += joined.count
        elif vouched is None or (whole and due):
            self._was_trimmed()
        elif joined.count or due:
            why = f"generation {joined.number} of {joined.name} is gone"
            self.tally.unverifiable += joined.count or 1
            self.tally.why[why] = joined.count or 1

    def _differ(
        self, kind: str, joined: _JoinedChunks | None, offset: int, entry: bytes | None, expected: bytes | None,
        actual: bytes | None, row: Row,
    ) -> None:  # fmt: skip
        name = None if joined is None else joined.file.name if joined.file is not None else joined.name
        told = entry.decode() if entry is not None else None
        self.tally.differences.append(Difference(kind, name, None, offset, told, expected, actual, row=row))
