"""Makes and keeps the account of a mapping's files (DESIGN §6.5, P11): what became of each, checked with the disk.

The catalog lists the files that are there, the records of generations say what was carried. The accountant looks into a
file that neither explains: a copy of another piece, or a generation under another inode. What is left is unaccounted.
The accountant does not trust the tail that decides what is carried: it only asks the tail which files it reads.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from bridge.core.errors import BridgeError, SourceError
from bridge.core.logger import logger
from bridge.core.model import Checkpoint
from bridge.engine.account.standing import ACTIVE, ASIDE, LINK, PIECE, WAITING, FilesAccount, FileStanding
from bridge.engine.account.unknown_files import UnknownFiles, is_known_by
from bridge.files.generation import open_regular
from bridge.files.generation_record import UNREAD, GenerationRecord
from bridge.files.named_file import FileStamp, NamedFile
from bridge.files.piece_age import bare
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.file_standings import (
    COPY,
    EDITED,
    LATE,
    LEFT,
    SKIPPED,
    UNACCOUNTED,
    FileRecord,
    forget_piece,
    remembered_pieces,
    save_piece,
)
from bridge.ledger.parity_runs import runs
from bridge.ledger.sources import SourceMemory, gone_before_mirrored
from bridge.ledger.store import Ledger

LISTING_SHARE = 50.0
"""The accountant's second listing of all files takes at most about one part in so many of forward's time."""

GRACE = 2
"""Sweeps of the accountant in which a running bridge must have taken up a file; then the file is unaccounted."""


class Accountant:
    """Keeps the account of one mapping's logs: tells the standing of each file. `ledger`: None where there is none."""

    def __init__(self, shared: MappingContext, ledger: Ledger | None, clock: Callable[[], float] = time.time) -> None:
        self._shared = shared
        self._catalog = shared.catalog
        self._ledger = ledger
        self._stream = shared.mapping.stream.key
        self._clock = clock
        self._settle = shared.mapping.source.settle_ms / 1000
        self._strangers = UnknownFiles(shared, ledger)
        self._remembered: dict[str, FileRecord] = {}
        self._edited: dict[tuple[int, ...], FileRecord] = {}
        """The files that a repair found edited, by all facts but the one that a rename changes."""
        self._unsaved: list[FileRecord] = []
        self._open: dict[str, tuple[FileStamp | None, int]] = {}
        """Files that are not explained yet, each with its facts and the number of sweeps in which it was so."""
        self._looked: set[str] = set()
        self._marks: tuple[int, ...] = ()
        self._list_at = 0.0
        self._unheard, self._unheard_of = set[str](), dict[str, int]()

    def _remember_pieces(self, ledger: Ledger) -> None:
        self._remembered = remembered_pieces(ledger, self._stream)
        self._edited = {
            known.facts[:4]: known for known in self._remembered.values() if known.standing == EDITED and known.facts
        }

    # -- a whole look ----------------------------------------------------------------------------------------

    def whole(self, stored: dict[str, bytes | None], *, running: bool) -> FilesAccount:
        """Makes the whole account of a mapping's logs, for a caller that only looks: the standing of each file.

        `stored` are the sources' checkpoints. `running`: a bridge runs; a file that it has not taken up yet is waiting,
        until that bridge says otherwise. Raises SourceError, LedgerError.
        """
        self._shared.claim_all(self._ledger)
        self._shared.leave(self._ledger)
        self._catalog.sweep()
        account = FilesAccount()
        if self._ledger is not None:
            self._remember_pieces(self._ledger)
            account.gone, account.acknowledged = gone_before_mirrored(self._ledger, self._stream)
        for listed in sorted(self._catalog.named.values(), key=lambda listed: listed.name):
            found = self._by_books(listed)
            if found is None:
                found = self._beyond(listed, stored, running=running)
                account.unsettled.add(listed.log or listed.name)
            account.pieces.append(found)
            account.logs.add(found.log)
        account.pieces += self._skipped()
        return account

    def _beyond(self, listed: NamedFile, stored: dict[str, bytes | None], *, running: bool) -> FileStanding:
        """Finds the standing of a file that catalog and records do not explain, for the whole account of a mapping.

        No bridge `running`: looks at the file's log as a bridge would.
        """
        waits = self._standing(listed, WAITING)
        before = self._remembered.get(listed.name)
        if running:
            if before is not None and before.standing == UNACCOUNTED and before.facts == listed.facts:
                return replace(waits, standing=UNACCOUNTED, why=before.why, behind=before.bytes)
            known = self._catalog.known(listed)
            if known is not None and listed.facts is not None and not known.packed and self._verified(listed):
                return self._standing(listed, self._kind(listed) if not known.closed else PIECE, "", known)
            found = self._explained(listed, patient=True)
            return waits if found.standing == UNACCOUNTED else found  # only the running bridge calls it unaccounted
        if listed.log not in self._looked:
            self._looked.add(listed.log or "")
            with suppress(SourceError):
                self._shared.tail_at(listed.log or "", self._ledger, stored.get(listed.log or ""))[0].watch_finished()
        return self._explained(listed, patient=False)

    def books(self, sources: dict[str, SourceMemory]) -> Callable[[], dict[str, int]]:
        """Reads the ledger before the accountant's sweep; returns a function to list the logs carried whole after it.

        The function returns the bytes of each such log. `sources` is what the ledger remembers of the logs. Raises
        LedgerError.
        """
        if self._ledger is not None:
            self._remember_pieces(self._ledger)
        return lambda: self._at_rest(sources)

    def _at_rest(self, sources: dict[str, SourceMemory]) -> dict[str, int]:
        """Lists the logs whose files are, by catalog and records, all carried and unchanged, each with its bytes."""
        waiting, rest, sizes = set[str](), set[str](), Counter[str]()
        for listed in self._catalog.named.values():
            found = self._by_books(listed)
            log_name = listed.log or listed.name
            sizes[log_name] += found.bytes if found is not None else 0
            if found is None or found.behind:
                waiting.add(log_name)
            elif found.standing == ACTIVE and (memory := sources.get(log_name)) is not None and memory.stored:
                position = Checkpoint.from_json(memory.stored).position
                if memory.refill is None and position == (found.generation, found.bytes):
                    rest.add(log_name)
        return {name: sizes[name] for name in rest - waiting}

    # -- a sweep of a running bridge -------------------------------------------------------------------------

    def sweep(self, changed: Iterable[NamedFile]) -> None:
        """Updates the account of files that changed or were not explained, and warns of those that stay unaccounted.

        To be called after the sources of these files have looked at them. Raises LedgerError.
        """
        if self._ledger is not None:
            self._save_skipped()
            self._remember_pieces(self._ledger)
        self._list_again()
        named = self._catalog.named
        names = {listed.name for listed in changed} | self._open.keys()
        for name in sorted(names):
            listed = named.get(name)
            if listed is None or listed.facts is None:
                self._settled(name)
                continue
            trusted = self._verified(listed)
            found = self._by_books(listed) if trusted else None
            found = found or self._explained(listed, patient=True, trusted=trusted)
            if found.standing != UNACCOUNTED:
                if found.standing == COPY:
                    self._remember(listed, found)
                else:
                    self._settled(name)
                if found.standing == WAITING:
                    self._open[name] = listed.facts, 0
                continue
            facts, seen = self._open.get(name, (None, 0))
            seen = seen + 1 if facts == listed.facts else 1
            self._open[name] = listed.facts, seen
            if seen >= GRACE and self._remember(listed, found):
                logger.warning(
                    "%s", FilesAccount([found]).sentences()[0], extra={"facts": {"path": name, "bytes": found.behind}}
                )

    def _list_again(self) -> None:
        """Lists the mapping's files once more by its globs, and accounts those that the catalog does not know.

        Such a file becomes unaccounted. Where there are many files, the listing is seldom.
        """
        marks, now = self._catalog.marks(), self._clock()
        if (marks == self._marks and 0 not in marks) or now < self._list_at:
            return
        began, self._marks = time.monotonic(), marks
        for path in self._catalog.patterns.found_below(self._catalog.root):
            name = str(path.relative_to(self._catalog.root))
            if name not in self._catalog.named and name not in self._unheard and path.is_file():
                seen = self._unheard_of.get(name, 0) + 1
                self._unheard_of[name] = seen
                self._marks = ()
                if seen >= GRACE:
                    self._say_unheard(name, path)
        self._list_at = now + (time.monotonic() - began) * LISTING_SHARE

    def _say_unheard(self, name: str, path: Path) -> None:
        listed = NamedFile(name, path, path.is_symlink(), rotated=False)
        now = path.stat()
        listed.facts = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
        found = self._standing(listed, UNACCOUNTED, "the mapping names it, and its catalog does not know it")
        if self._remember(listed, found):
            logger.warning(
                "%s", FilesAccount([found]).sentences()[0], extra={"facts": {"path": name, "bytes": found.behind}}
            )
        self._unheard.add(name)

    def skipped(self, name: str, path: str, start: int, end: int) -> None:
        """Notes for the account that forward's cursor skipped a stretch of a log unread; the next sweep saves that."""
        short = path.removeprefix(f"{self._catalog.root}/")
        why = f"the cursor of {name} went over it, and nobody read it"
        logger.warning("%s is unaccounted, bytes %d to %d: %s", short, start, end, why,
                    extra={"facts": {"path": short, "bytes": end - start}})  # fmt: skip
        self._unsaved.append(FileRecord(f"{short}:{start}", SKIPPED, why, self._clock(), None, end - start))

    def _save_skipped(self) -> None:
        """Saves in the ledger the skipped stretches of logs; on failure they wait for the accountant's next sweep."""
        while self._unsaved and self._ledger is not None:
            save_piece(self._ledger, self._stream, self._unsaved[0])
            self._unsaved.pop(0)

    def _skipped(self) -> Iterator[FileStanding]:
        """Yields as unaccounted the stretches of logs skipped unread, unless parity was equal since then."""
        last = next(iter(runs(self._ledger, self._stream, 1)), None) if self._ledger is not None else None
        for noted in self._remembered.values():
            if noted.standing != SKIPPED or (last is not None and last.verdict == "equal" and last.began > noted.at):
                continue
            path, _, offset = noted.path.rpartition(":")
            yield FileStanding(path, UNACCOUNTED, path, None, int(offset) + noted.bytes, noted.bytes, noted.why)

    def _remember(self, listed: NamedFile, found: FileStanding) -> bool:
        """Saves a file's standing of the account in the ledger; False: the ledger has it. Raises LedgerError."""
        before = self._remembered.get(listed.name)
        settled = before is not None and (before.standing in (LEFT, LATE) or before.facts == listed.facts)
        if self._ledger is None or settled:
            return False
        now = FileRecord(listed.name, found.standing, found.why, self._clock(), listed.facts, found.behind)
        save_piece(self._ledger, self._stream, now)
        self._remembered[listed.name] = now
        return True

    def _settled(self, name: str) -> None:
        before = self._remembered.get(name)
        if before is not None and before.standing not in (LEFT, LATE, EDITED) and self._ledger is not None:
            forget_piece(self._ledger, self._stream, name)
            del self._remembered[name]
            if before.standing == UNACCOUNTED:
                logger.info("%s is accounted for", name)
        self._open.pop(name, None)  # last: where the ledger fails, the next sweep comes to the file again

    # -- one file --------------------------------------------------------------------------------------------

    def _standing(
        self, listed: NamedFile, standing: str, why: str = "", known: GenerationRecord | None = None
    ) -> FileStanding:
        size = listed.facts[2] if listed.facts is not None else 0
        if known is not None and known.packed and (known.closed or known.at.offset):
            size = known.at.offset
        behind = max(0, size - known.at.offset) if known is not None else size
        number = known.number if known is not None else None
        decided = known.decided if known is not None else ""
        if listed.identity in self._catalog.late:
            decided, why = "", why or "a repair brought it over late"
        return FileStanding(listed.name, standing, listed.log or "", number, size, behind, why, listed.facts, decided)

    def _by_books(self, listed: NamedFile) -> FileStanding | None:
        """Finds the standing of a file by catalog and records alone; None: the accountant must look into the file."""
        if listed.aside == LEFT:
            told = self._remembered.get(listed.name) or next(
                (other for other in self._remembered.values() if other.facts and other.facts[:2] == listed.identity),
                None,
            )
            return replace(self._standing(listed, LEFT, told.why if told is not None else ""), behind=0)
        if listed.aside:
            return replace(self._standing(listed, ASIDE, listed.aside), behind=0)
        if listed.of:
            return replace(self._standing(listed, LINK, f"another name of {listed.of}"), behind=0, bytes=0)
        if listed.facts is not None and (edited := self._edited.get(listed.facts[:4])) is not None:
            return replace(self._standing(listed, PIECE, edited.why), behind=0)
        before = self._remembered.get(listed.name)
        known = self._catalog.known(listed)
        if known is not None and listed.facts is not None:
            standing = self._kind(listed) if not known.closed else PIECE
            _, _, size, written, _ = listed.facts
            if known.packed:
                stands = known.closed and known.packed == (size, written)
            else:
                stands = size == known.at.offset and written == known.written
            return self._standing(listed, standing, "", known) if stands else None
        if before is not None and before.standing == COPY and before.facts == listed.facts:
            return replace(self._standing(listed, COPY, before.why), behind=0)
        if known is None and self._catalog.is_foreign(listed.name):
            return replace(self._standing(listed, ASIDE, listed.aside), behind=0)
        return None

    def _kind(self, listed: NamedFile) -> str:
        """Returns the standing of a carried file in the account: ACTIVE if its log's name leads to it, else PIECE."""
        return ACTIVE if listed.name == listed.log and listed.identity not in self._catalog.late else PIECE

    def _is_young(self, listed: NamedFile) -> bool:
        """Whether an unexplained file of the account was written to a moment ago, so that a bridge may take it up."""
        return listed.facts is not None and self._clock() - listed.facts[3] / 1e9 < max(self._settle, 1.0)

    def _verified(self, listed: NamedFile) -> bool:
        """Whether a file that the account takes for a finished generation has that generation's digests, read anew."""
        known = self._catalog.known(listed)
        if known is None or not known.closed or not known.at.head_len:
            return True
        try:
            file = open_regular(self._catalog.root / listed.name)
        except SourceError:
            return True  # whoever carries it reports the error
        if file is None:
            return True
        try:
            return is_known_by(file, known.at, ends=not file.packed)
        finally:
            file.close()

    def _unread(self, listed: NamedFile, known: GenerationRecord) -> int:
        """Counts the bytes of a compressed file of the account behind those that were carried."""
        with suppress(SourceError):  # whoever carries it reports the error
            file = open_regular(self._catalog.root / listed.name)
            if file is not None:
                with closing(file):
                    return max(0, file.size() - known.at.offset)
        return 0

    def _explained(self, listed: NamedFile, *, patient: bool, trusted: bool = True) -> FileStanding:
        """Finds the standing of a file in the account that was changed since it was carried, or was never carried.

        `patient`: a bridge runs, and may take up in a moment what was written a moment ago. Not `trusted`: what the
        records say of the file is not true.
        """
        if listed.facts is None:
            return self._standing(listed, WAITING)
        if why := self._shared.held_back.get(listed.name, ""):
            return self._standing(listed, WAITING, why)
        known = self._catalog.known(listed) if trusted and self._verified(listed) else None
        tail = self._shared.tail(listed.log or listed.name, self._ledger)
        with tail.lock:
            reads = tail.of_identity(listed.identity)
        if reads is not None:
            standing = self._kind(listed)
            record = known or GenerationRecord(
                reads.number, *listed.identity, reads.fingerprint(), decided=reads.decided
            )
            return self._standing(listed, standing, "", record)
        unread = known is not None and known.packed == UNREAD
        if known is not None and not unread and (known.packed or listed.facts[2] <= known.at.offset):
            return self._standing(listed, PIECE, "", known)  # parity reports what was changed in it
        if (patient or (known is None and bare(listed.name) != listed.name)) and self._is_young(listed):
            return self._standing(listed, WAITING, "it was written to a moment ago")
        if known is not None:
            late = self._standing(listed, UNACCOUNTED, "it was written to after it was carried, and is not read", known)
            return replace(late, behind=self._unread(listed, known)) if unread else late
        if listed.facts[2] == 0:
            return self._standing(listed, PIECE, "it is empty")
        try:
            told = self._strangers.tell(listed)
        except BridgeError as error:
            return self._standing(listed, UNACCOUNTED, f"it cannot be looked at: {error.what}")
        if told is None:
            return self._standing(listed, UNACCOUNTED, self._reason(listed))
        found = self._standing(listed, told.standing, told.why)
        return found if told.standing == UNACCOUNTED else replace(found, generation=told.generation, behind=0)

    def _reason(self, listed: NamedFile) -> str:
        return "it was never carried, and is older than what was" if listed.rotated else "it was never carried"
