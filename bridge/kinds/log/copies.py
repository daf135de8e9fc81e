"""Copies under a glob (DESIGN §6.2): a new log whose bytes are another one's waits until it is known what it is.

Equal bytes are a copy only if the file is whole, unchanged for a minute, at least 4 KiB, and equal to its end. Anything
else is a log from its first byte: a short session that begins as its sibling does is a session.
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
from bridge.ledger.edits import CarriedSpan, save_stretches
from bridge.ledger.file_standings import COPY, FileRecord, forget_piece, remembered_pieces, save_piece
from bridge.ledger.sources import all_generations, save_generation
from bridge.ledger.store import Ledger

LEAST, AT_REST = 4096, 60.0
"""Bytes that a copy has at least, and seconds for which it must lie unchanged."""

OTHERS = -1
"""In the place of the generation whose place a file took: it begins with lines of another log."""


@dataclass(slots=True)
class Copy:
    """A file whose bytes are those with which the file `of` begins: `equal` of them, as of these facts."""

    of: str
    equal: int
    facts: FileStamp


class Copies:
    """Finds the new logs of one mapping that are copies of others. Used by forward's thread."""

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
        """Whether a log that nobody carried is not to be carried now: it is a copy, or may be.

        `patient`: the bridge runs and looks again, so a short one waits a moment as well, as for the file that it is
        copied from to be emptied. Raises SourceError, LedgerError.
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
        """The file with whose beginning all bytes of this one are equal; None: there is none."""
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
        """A file that was seen equal to another has grown otherwise: it is a log from there on."""
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
        """Says of a log that was just met that it begins or ends as one did whose file is gone: all of it is sent.

        A log that was renamed, and then saved anew, is not known again.
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
        """The generations whose file is gone, by the digests of their first KiB and last bytes; read once a second."""
        now = self._clock()
        if now >= self._gone[0] + 1:
            lies, found = self._shared.catalog.lies, dict[str, tuple[str, int]]()
            for log_name, known in all_generations(self._ledger, self._stream):
                if known.at.head_len == HEAD_BYTES and not lies((known.device, known.inode)):
                    found |= dict.fromkeys((known.at.head, known.at.tail), (log_name, known.number))
            self._gone = now, found
        return self._gone[1]

    def begun(self, name: str) -> None:
        """Notes in the ledger what of a log that was just met is another one's: it is passed over."""
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
                save_stretches(self._ledger, self._stream, name, first.number, [CarriedSpan(0, end, 0, 0)])


def _facts(path: Path) -> FileStamp | None:
    try:
        now = path.stat()
    except OSError:
        return None
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns


def _equal(content: Content, other: Content) -> int:
    """How many first bytes two files have in common."""
    for at in count(0, COMPARED):
        here, there = content.read(COMPARED, at), other.read(COMPARED, at)
        if here != there or not here:
            return at + next((n for n, (a, b) in enumerate(zip(here, there, strict=False)) if a != b),
                             min(len(here), len(there)))  # fmt: skip
    raise AssertionError("files end")
