"""Implements forward's source for a spool: sends each message file of a folder exactly once, in numbered batches.

There is no cursor in the folder. The ledger holds the due messages, with their bytes, and gives each a batch before it
is sent; the batch's number travels in the transaction with the entries, as the checkpoint's generation. After a break
the same batch is sent again as it was, or is known to be in. So nothing is lost or doubled, and nothing in Redis grows
with the files.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from bridge.core.codecs.document import DocumentMessage
from bridge.core.errors import SourceError
from bridge.core.failpoints import failpoint
from bridge.core.logger import logger
from bridge.core.mapping import Mapping
from bridge.core.model import Checkpoint, Fingerprint, Origin, Position, Row, digest, paired, shown_name
from bridge.kinds.kind import BATCH_BYTES, Source, SourceBatch
from bridge.kinds.resume import Reconciliation, Resume
from bridge.kinds.spool.scanner import UNREADABLE, FolderScanner
from bridge.kinds.spool.spool_files import SpoolFiles
from bridge.ledger import spool_messages
from bridge.ledger.quarantine import anything_aside, find_quarantined, mark_retried
from bridge.ledger.spool_messages import DueMessage
from bridge.ledger.spool_recovery import forget_above
from bridge.ledger.store import Ledger
from bridge.streams.keys import Keys
from bridge.streams.writer import Cursor

AHEAD = 10
"""How many batches of a spool get their numbers in one ledger transaction."""

FRESH_FILE_SECONDS = 1.0
"""Seconds that the history of a spool waits for files which were written just now."""


class SpoolSource(Source):
    """A source that is one folder with a file per message; forward sends them in batches that the ledger numbers."""

    files: SpoolFiles

    def __init__(
        self, mapping: Mapping, keys: Keys, scanner: FolderScanner, ledger: Ledger, clock: Callable[[], float]
    ) -> None:
        self._folder = scanner.folder
        limit, path = mapping.format.max_line_bytes, mapping.source.path
        files = SpoolFiles(scanner, ledger, mapping.stream.key, limit)
        super().__init__(mapping, path, files, scanner.notices, scanner.counts, mapping.codec(path), ledger)
        self._mapping = mapping
        self._keys = keys
        self._ledger = ledger
        self._clock = clock
        self._stream = mapping.stream.key
        self._limit = limit
        self._scanner = scanner
        self._sending: set[int] = set()
        self._ahead: deque[tuple[int, list[tuple[Row, int]], float]] = deque()
        """Batches of the spool that have their numbers and were not handed out to forward yet."""
        self._landed: list[int] = []
        """Batches of the spool that are in the stream, and of which the ledger was not told yet."""
        self._unsure: list[int] = []
        """Batches from before the last connect that may be in the stream or not: the spool sends them again first."""
        self._next = 1
        self._patient = 0.0
        """Until when, in seconds since 1970, a spool's history waits for incomplete files, as they may be older."""

    # -- the batches -----------------------------------------------------------------------------------------

    def resume(self, resume: Resume, compared: Reconciliation) -> None:
        """Makes the spool go on behind the batch that Redis names, which is in the stream.

        Later batches are sent again.
        """
        numbers = {number for source, number in compared.standing if source == self.progress.number}
        kept, stands = self._standing(resume, compared)
        self._sending.clear()
        self._ahead.clear()
        self._landed.clear()
        self._next = max([kept, spool_messages.last_batch(self._ledger, self._stream), *numbers]) + 1
        for number, size in spool_messages.batches(self._ledger, self._stream).items():
            # A batch is in as a whole or not at all: where only some places stand, somebody else wrote their origins.
            whole = len(stands[number]) >= size if number in stands else number in numbers
            if number <= kept or whole:
                self._landed.append(number)
        self._note_landed()
        if not self.progress.memory.live:
            self._patient = self._clock() + FRESH_FILE_SECONDS
        self._unsure = [] if compared.lost else [*spool_messages.batches(self._ledger, self._stream)]

    def _standing(self, resume: Resume, compared: Reconciliation) -> tuple[int, dict[int, set[int]]]:
        """Returns the last batch of the spool that is in the stream as a whole, and which places stand, by batch."""
        stands = {number: places for (source, number), places in compared.offsets.items()
                  if source == self.progress.number}  # fmt: skip
        kept = resume.checkpoint.generation if resume.checkpoint is not None else 0
        return 0 if compared.anew else max(kept, resume.behind.generation if resume.behind is not None else 0), stands

    def forget_lost(self, compared: Reconciliation) -> None:
        """Makes the ledger forget, in a transaction, the spool's messages that Redis lost: they are due again."""
        kept, stands = self._standing(compared.resume.get(self.name, Resume()), compared)
        forget_above(self._ledger, self._stream, _removed_up_to(compared, self.progress.number, kept), stands)
        self._scanner.forget()

    def knows(self, checkpoint: Checkpoint, *, seen: bool) -> bool:
        """Whether the ledger knows the batch that a spool's checkpoint names, and no later batch to be in the stream.

        A batch has its number in the ledger before it is sent, and is known to be in when Redis has said so.
        """
        number = checkpoint.generation
        if spool_messages.last_landed(self._ledger, self._stream) > number:
            return False
        return seen or not number or spool_messages.has_batch(self._ledger, self._stream, number)

    def vouches(self, origin: Origin, fields: list[bytes]) -> bool:
        """Whether the ledger knows that the spool sent a message of these fields as this origin's batch and place."""
        values = paired(fields)
        row = tuple(values.get(name, b"") for name in self.codec.fields)
        sent = spool_messages.digest_at(self._ledger, self._stream, origin.generation, origin.offset)
        return sent is not None and sent == self._digest(row)

    def _digest(self, row: Row) -> bytes:
        """Computes, from its row, the digest that the ledger keeps of a message which a spool has sent."""
        return digest(*row)

    def position(self) -> tuple[Position, bytes] | None:
        """Returns the last batch of the spool that is in the stream, as a position and as the checkpoint's value."""
        stored = self.progress.stored or _checkpoint(0, 0)
        return Checkpoint.from_json(stored).position, stored

    def next_wake(self) -> float | None:
        """Returns after how many seconds a spool is looked at again, as a file changed lately; or None."""
        return self.patience if self._scanner.soon else None

    def next_batch(self, limit: int) -> SourceBatch | None:
        """Makes the spool's next source batch of up to `limit` messages; None: nothing is due now.

        A batch that may be in the stream already is sent again first. Raises RejectStop, SourceError, LedgerError.
        """
        self._scanner.look_again()
        if not self.progress.memory.live and self._scanner.soon and self._clock() < self._patient:
            return None
        if self._unsure:
            number = self._unsure.pop(0)
            return self._batch_again(number, spool_messages.due(self._ledger, self._stream, limit, batch=number))
        if not self._ahead:
            self._give_batches(limit)
        if self._ahead:
            return self._batch_of(*self._ahead.popleft())
        self._note_landed()
        self.files.count_anew()
        if not self.progress.memory.live and not self._sending and not self._scanner.soon:
            self.progress.go_live("its history is in the stream")
            self.remember()
        return None

    def _give_batches(self, limit: int) -> None:
        """Gives batch numbers to some of the spool's due messages, for some batches ahead, in one ledger transaction.

        A transaction for each batch would write most pages of the ledger each time.
        """
        waiting = spool_messages.due(self._ledger, self._stream, limit)
        if not waiting:
            return
        number, size = max(self._next, spool_messages.last_batch(self._ledger, self._stream) + 1), 0
        made: list[tuple[int, list[tuple[Row, int]], float]] = []
        failpoint("spool.batch.before")
        with self._ledger.transaction():
            self._write_landed()
            while waiting and len(made) < AHEAD and size < BATCH_BYTES:
                ready = self._ready(waiting)
                size += sum(len(due.raw or b"") for due, _, _ in ready)
                if ready:
                    spool_messages.send(
                        self._ledger, self._stream, number,
                        ((due.key, due.raw or b"", self._digest(row)) for due, row, _ in ready),
                    )  # fmt: skip
                    written = min(due.facts.written for due, _, _ in ready) / 1e9
                    made.append((number, [(row, at) for _, row, at in ready], written))
                    number += 1
                waiting = spool_messages.due(self._ledger, self._stream, limit)
        failpoint("spool.batch.after")
        self._landed.clear()
        self._next = number
        self._ahead.extend(made)

    def _ready(self, waiting: list[DueMessage]) -> list[tuple[DueMessage, Row, int]]:
        """Picks due messages of the spool for one batch, up to its bytes, with rows and times; drops those gone."""
        ready: list[tuple[DueMessage, Row, int]] = []
        size = 0
        for due in waiting:
            whole = due if due.raw is not None else self._again(due)
            message = self._message(whole) if whole is not None else None
            if whole is None or message is None or isinstance(message.row, str):
                spool_messages.drop_due(self._ledger, self._stream, due.key)
                continue
            size += len(whole.raw or b"")
            if ready and size > BATCH_BYTES:
                break
            ready.append((whole, message.row, message.time))
        return ready

    def _again(self, due: DueMessage) -> DueMessage | None:
        """Reads a due message's bytes from its spool file again; None: the file changed, is gone or unreadable."""
        try:
            taken = self._folder.read(due.name, self._limit + 1)
        except SourceError as error:  # the others go on
            self._scanner.unreadable[due.name] = error
            if (found := self._folder.find(due.name)) is not None:
                self._scanner.wait(found, self._clock(), self._clock() + UNREADABLE)
            return None
        if taken is None or taken.facts != due.facts:
            if (found := self._folder.find(due.name)) is not None:
                self._scanner.wait(found, self._clock(), self._clock())
            else:
                self.notices.append(f"{shown_name(due.name)} was gone before it could be carried")
            return None
        return replace(due, raw=taken.raw)

    def _message(self, due: DueMessage) -> DocumentMessage:
        return self._mapping.document(os.fsdecode(due.name), due.facts.written).read(due.raw or b"")

    def _batch_again(self, number: int, sent_before: list[DueMessage]) -> SourceBatch:
        """Makes the source batch of a spool's numbered batch from before the last connect, as it was."""
        made: list[tuple[Row, int]] = []
        for due in sent_before:
            message = self._message(due)
            row = message.row if isinstance(message.row, tuple) else (b"", b"", b"", due.raw or b"")
            made.append((row, message.time))
        return self._batch_of(number, made)

    def _batch_of(self, number: int, made: list[tuple[Row, int]], written: float = 0.0) -> SourceBatch:
        self._sending.add(number)
        cursor = Cursor(self._keys.checkpoint, os.fsencode(self.name), _checkpoint(number, len(made)))
        batch = SourceBatch(self, cursor, Position(number, len(made)), Position(number, 0))
        batch.rows = [row for row, _ in made]
        batch.prefix, batch.offsets = b"%d.%d:" % (self.progress.number, number), list(range(len(made)))
        if self.progress.memory.live:
            batch.written = written
        else:
            batch.times = [at for _, at in made]
        return batch

    def committed(self, batch: SourceBatch, stored: bytes) -> None:
        """Notes that a batch of the spool is in the stream, and that Redis holds `stored` as the spool's cursor."""
        self.progress.stored = stored
        self.counts.entries += len(batch.rows)
        if batch.times:
            self.counts.timed(batch.times)
        self._landed.append(batch.position.generation)
        self._sending.discard(batch.position.generation)

    def remember(self) -> None:
        """Notes in the ledger which batches of a spool landed in the stream, and how far it was carried."""
        self.progress.save()
        self._note_landed()

    def _note_landed(self) -> None:
        if self._landed:
            with self._ledger.joined_transaction():
                self._write_landed()
                self._ledger.after_commit(self._landed.clear)

    def _write_landed(self) -> None:
        """Writes into the ledger, in a transaction, which batches of the spool are in the stream.

        Until then only Redis knows.
        """
        for number in self._landed:
            failpoint("spool.landed.before")
            names = spool_messages.landed(self._ledger, self._stream, number)
            failpoint("spool.landed.after")
            for name in names if anything_aside(self._ledger, self._stream) else ():
                aside = find_quarantined(self._ledger, self._stream, name=shown_name(name))
                if aside is not None and not aside.retried:
                    mark_retried(self._ledger, aside.number, f"origin {self.progress.number}.{number}", self._clock())
            logger.debug("%s: batch %d is in", self.name, number)


def _removed_up_to(compared: Reconciliation, source: int, kept: int) -> int:
    """Finds the last batch of a spool whose messages may have been removed from the stream on purpose.

    They may have been in the stream, and do not stand in it. A checkpoint does not prove that of all batches up to
    `kept`: an older ledger may have given their numbers again, to what it sent while Redis held other data.
    """
    info = compared.info
    if info.added == info.length:
        return 0  # nothing was ever removed
    oldest = min(((entry, batch) for (number, batch), (_, entry) in compared.standing.items() if number == source),
                 default=None)  # fmt: skip
    if oldest is not None and info.deleted < info.first_id:  # only the oldest were removed; copies may stand behind
        return min(kept, oldest[1])
    return kept


def _checkpoint(number: int, count: int) -> bytes:
    return Checkpoint(number, Fingerprint(count, 0, "", "")).to_json()
