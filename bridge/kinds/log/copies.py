"""Detects new logs under a glob that are copies of another log, and holds them back (DESIGN §6.2).

Equal bytes are a copy only if the file is whole, unchanged for a minute, at least 4 KiB, and equal to its end. Any
other file is a log from its first byte: the log of a short session may begin as another session's log does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from bridge.core.logger import logger
from bridge.core.model import hex_digest
from bridge.files.content import HEAD_BYTES, Content
from bridge.files.generation import COMPARED, TAIL, Generation, is_copy, open_regular
from bridge.files.named_file import FileStamp
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.edits import CarriedSpan, save_carried_spans
from bridge.ledger.file_standings import COPY, FileRecord, forget_piece, remembered_pieces, save_piece
from bridge.ledger.sources import all_generations, save_generation
from bridge.ledger.store import Ledger

LEAST, AT_REST = 4096, 60.0
"""Least bytes of a log that counts as a copy, and seconds for which it must have been unchanged."""

OTHERS = -1
"""Stands in `Generation.rewrites`, instead of a generation: the file is a copy of another log up to some byte."""


@dataclass(slots=True)
class Copy:
    """A new log that is a copy so far: the file `of` begins with all its `equal` bytes; `facts` are the copy's then."""

    of: str
    equal: int
    facts: FileStamp


class Copies:
    """Finds the new logs of one mapping that are copies of other logs. Used by forward's thread."""

    def __init__(self, shared: MappingContext, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._shared = shared
        self._ledger = ledger
        self._clock = clock
        self._stream = shared.mapping.stream.key
        self._settle = shared.mapping.source.settle_ms / 1000
        self._seen: dict[str, Copy] = {}
        self._begin: dict[str, int] = {}
        self._gone: tuple[float, dict[str, tuple[str, int]]] = -1e9, {}

    def waits_or_is_copy(self, name: str, *, patient: bool) -> bool:
        """Whether a new log must not be carried now, because the log is a copy of another one or may be a copy.

        `patient`: the bridge runs and looks again, so a short log waits a moment as well: the log that it was copied
        from may be about to be emptied. Raises SourceError, LedgerError.
        """
        self._shared.held_back.pop(name, None)
        listed = self._shared.catalog.named.get(name)
        if listed is None or listed.log != name or listed.of or listed.aside or (facts := _facts(listed.path)) is None:
            return False
        noted = remembered_pieces(self._ledger, self._stream).get(name)
        before = noted if noted is not None and noted.standing == COPY else None
        if before is not None and before.facts == facts:
            return True
        file = open_regular(self._shared.settings.root / name)
        if file is None or file.packed:
            return False
        try:
            twin = self._twin_of(name, file, facts)
            seen = self._seen.pop(name, None) or (
                Copy(before.why.rpartition(" ")[2], before.bytes, before.facts) if before and before.facts else None
            )
            if twin is None:
                if seen is not None and seen.equal >= LEAST:
                    self._diverged(name, file, seen)
                return False
            rests = self._clock() - facts[3] / 1e9
            if twin.equal < LEAST and (not patient or rests >= self._settle):
                logger.warning(
                    "%s begins as %s does, and is short: it is a log of its own, all of it is sent", name, twin.of
                )
                return False
            self._seen[name] = twin
            self._shared.held_back[name] = f"its bytes are those of {twin.of} so far"
            if twin.equal >= LEAST and rests >= AT_REST:
                self._note_copy(name, twin)
            return True
        finally:
            file.close()

    def _twin_of(self, name: str, file: Generation, facts: FileStamp) -> Copy | None:
        """Finds the log file that begins with all the bytes of a new log, a possible copy; None: there is none."""
        size = file.size()
        head = file.read(min(HEAD_BYTES, size), 0)
        if not head or file.content is None:
            return None
        for path in self._shared.catalog.that_begin(len(head), hex_digest(head), name):
            other = open_regular(self._shared.settings.root / path)
            if other is None:
                continue
            try:
                if other.content is not None and other.size() >= size and is_copy(file.content, other.content):
                    return Copy(path, size, facts)
            finally:
                other.close()
        return None

    def _note_copy(self, name: str, twin: Copy) -> None:
        before = remembered_pieces(self._ledger, self._stream).get(name)
        if before is None or before.standing == COPY:
            said = FileRecord(name, COPY, f"its bytes are those of {twin.of}", self._clock(), twin.facts, twin.equal)
            save_piece(self._ledger, self._stream, said)
            logger.warning("%s is a copy: %s; it is not carried", name, said.why, extra={"facts": {"path": name}})

    def _diverged(self, name: str, file: Generation, seen: Copy) -> None:
        """Notes that a copy has grown differently from the log it was copied from: from there on it is its own log."""
        equal, other = seen.equal, open_regular(self._shared.settings.root / seen.of)
        if other is not None:
            try:
                if file.content is not None and other.content is not None:
                    equal = max(equal, _equal(file.content, other.content))
            finally:
                other.close()
        known = file.read(equal, 0)
        begin = known.rfind(b"\n") + 1
        if file.size() >= seen.equal and begin:
            self._begin[name] = begin
            logger.warning("%s: a copy of %s up to byte %d, and a log of its own from there on", name, seen.of, begin)
        forget_piece(self._ledger, self._stream, name)

    def tell_edited(self, name: str) -> None:
        """Warns that a new log, no copy, begins or ends as a generation whose file is gone did: all of it is sent.

        A log that was renamed, and then saved anew, is not recognised.
        """
        gone, file = self._gone_ones(), open_regular(self._shared.settings.root / name)
        if file is None:
            return
        try:
            size = 0 if file.packed else file.size()
            ends = [file.read(HEAD_BYTES, 0), file.read(TAIL, size - TAIL)] if gone and size >= HEAD_BYTES else []
        finally:
            file.close()
        for log_name, number in (gone[digest] for end in ends if (digest := hex_digest(end)) in gone):
            if log_name != name:
                logger.warning(
                    "%s begins or ends as generation %d of %s did, whose file is gone: it is a log of its own,"
                    " all of it is sent", name, number, log_name,
                )  # fmt: skip
                return

    def _gone_ones(self) -> dict[str, tuple[str, int]]:
        """Reads, once a second, which generations' files are gone, by the digests of their first KiB and last bytes."""
        now = self._clock()
        if now >= self._gone[0] + 1:
            lies, found = self._shared.catalog.lies, dict[str, tuple[str, int]]()
            for log_name, known in all_generations(self._ledger, self._stream):
                if known.at.head_len == HEAD_BYTES and not lies((known.device, known.inode)):
                    found |= dict.fromkeys((known.at.head, known.at.tail), (log_name, known.number))
            self._gone = now, found
        return self._gone[1]

    def begun(self, name: str) -> None:
        """Notes in the ledger which first lines of a new log are a copy of another log's: forward passes over them."""
        end = self._begin.pop(name, 0)
        if not end:
            return
        tail = self._shared.tail(name, self._ledger)
        with tail.lock:
            first = tail.first()
            if first is None or first.read_to:
                return
            first.rewrites = OTHERS
            known = tail.confirmed(first)
            with self._ledger.transaction():
                save_generation(self._ledger, self._stream, name, known)
                save_carried_spans(self._ledger, self._stream, name, first.number, [CarriedSpan(0, end, 0, 0)])


def _facts(path: Path) -> FileStamp | None:
    try:
        now = path.stat()
    except OSError:
        return None
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns


def _equal(content: Content, other: Content) -> int:
    """Counts the first bytes that a log and the one it may be a copy of have in common."""
    for at in count(0, COMPARED):
        here, there = content.read(COMPARED, at), other.read(COMPARED, at)
        if here != there or not here:
            return at + next((n for n, (a, b) in enumerate(zip(here, there, strict=False)) if a != b),
                             min(len(here), len(there)))  # fmt: skip
    raise AssertionError("files end")
