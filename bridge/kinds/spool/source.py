"""Implements forward's source for a spool: sends each message file of a folder exactly once, in numbered batches.

There is no cursor in the folder. The ledger holds the due messages, with their bytes, and gives each a batch before it
is sent; the batch's number travels in the transaction with the entries, as the checkpoint's generation. After a break
the same batch is sent again as it was, or is known to be in. So nothing is lost or doubled, and nothing in Redis grows
with the files.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from bridge.core.codecs.document import DocumentMessage
from bridge.core.errors import SourceError
from bridge.core.failpoints import failpoint
from bridge.core.logger import logger
from bridge.core.mapping import Mapping
from bridge.core.model import Checkpoint, Fingerprint, Origin, Position, Row, digest, paired, shown_name
from bridge.files.folder import MessageFolder
from bridge.kinds.kind import BATCH_BYTES, Source, SourceBatch
from bridge.kinds.resume import Reconciliation, Resume
from bridge.kinds.spool.scanner import UNREADABLE, FolderScanner
from bridge.ledger import spool_messages
from bridge.ledger.quarantine import anything_aside, find_quarantined, mark_retried
from bridge.ledger.ranges import Range
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

    def __init__(
        self, mapping: Mapping, keys: Keys, folder: MessageFolder, ledger: Ledger, clock: Callable[[], float],
        compare: Callable[[], None],
    ) -> None:  # fmt: skip
        super().__init__(mapping, mapping.source.path, [], ledger, clock)
        self._mapping = mapping
        self._keys = keys
        self._folder = folder
        self._limit = mapping.format.max_line_bytes
        self._intake = FolderScanner(mapping, folder, ledger, clock, self.notices, compare)
        self.counts = self._intake.counts
        self._sending: set[int] = set()
        self._ahead: deque[tuple[int, list[tuple[Row, int]], float]] = deque()
        """Batches of the spool that have their numbers and were not handed out to forward yet."""
        self._landed: list[int] = []
        """Batches of the spool that are in the stream, and of which the ledger was not told yet."""
        self._unsure: list[int] = []
        """Batches from before the last connect that may be in the stream or not: the spool sends them again first."""
        self._next = 1
        self._counted: tuple[float, tuple[int, int, int, int | None]] = (-2.0, (0, 0, 0, None))
        self._patient = 0.0
        """Until when, in seconds since 1970, a spool's history waits for incomplete files, as they may be older."""

    # -- the folder ------------------------------------------------------------------------------------------

    def look(self, paths: set[str] | None) -> bool:
        """Takes complete files of a spool's folder in as due, or only those at `paths`; False: no path is the spool's.

        A file that cannot be read is reported, and the others go on. Raises SourceError, LedgerError.
        """
        looked = self._intake.look(paths)
        tight = [self._intake.tight] if self._intake.tight is not None else []
        self.unreadable = next(iter([*tight, *self._intake.unreadable.values(), *self._folder.unreadable]), None)
        return looked

    def take_news(self) -> list[str]:
        """Returns the spool source's notices for the log, once."""
        said = list(self.notices)
        self.notices.clear()
        return said

    @property
    def present(self) -> bool:
        """Whether the spool is there to be carried: always, as there is a folder, or its place."""
        return True

    def end(self) -> Position | None:
        """Returns a position as a sign that the spool has due or incomplete files; None: nothing.

        What is in the folder when it is first met is history.
        """
        self._counted = time.monotonic(), spool_messages.totals(self._ledger, self._stream)
        due = self._counted[1][1]
        return Position(1, 0) if due or self._intake.waiting else None

    def take_as_history(self) -> None:
        """Marks what a spool's folder holds now as history: the entries get the messages' own times as IDs."""
        if self.end() is not None:
            self.memory = replace(self.memory, live=False, history=Position(1, 0))

    def content_of(self, span: Range) -> bytes:
        """Reads the spool file that the mirror wrote for this range; empty when the file is gone."""
        taken = self._folder.read(os.fsencode(span.name), self._limit + 1)
        return taken.raw if taken is not None else b""

    @property
    def settling(self) -> int:
        """How many files of the spool wait to be complete before their messages are due; rather too many."""
        return len(self._intake.waiting)

    def left(self) -> int:
        """Counts the bytes of the spool's messages that are due, those on their way included."""
        return self._totals()[2]

    def on_disk(self) -> int:
        """Counts the bytes of the spool's files whose messages were carried or are due."""
        carried, _, due, _ = self._totals()
        return carried + due

    def _totals(self) -> tuple[int, int, int, int | None]:
        """Counts the carried and due messages of a spool, once a second at most: there may be many.

        Returns the bytes of carried files; number, bytes and earliest time, in ms, of due messages.
        """
        now = time.monotonic()
        if now >= self._counted[0] + 1:
            self._counted = now, spool_messages.totals(self._ledger, self._stream)
        return self._counted[1]

    def unfinished(self) -> int:
        """Counts the bytes of the spool's files that are not complete."""
        return sum(waiting_file.facts.size for waiting_file in self._intake.waiting.values())

    # -- the batches -----------------------------------------------------------------------------------------

    def resume(self, resume: Resume, compared: Reconciliation) -> None:
        """Makes the spool go on behind the batch that Redis names, which is in the stream.

        Later batches are sent again.
        """
        numbers = {number for source, number in compared.standing if source == self.memory.number}
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
        if not self.memory.live:
            self._patient = self._clock() + FRESH_FILE_SECONDS
        self._unsure = [] if compared.lost else [*spool_messages.batches(self._ledger, self._stream)]

    def _standing(self, resume: Resume, compared: Reconciliation) -> tuple[int, dict[int, set[int]]]:
        """Returns the last batch of the spool that is in the stream as a whole, and which places stand, by batch."""
        stands = {number: places for (source, number), places in compared.offsets.items()
                  if source == self.memory.number}  # fmt: skip
        kept = resume.checkpoint.generation if resume.checkpoint is not None else 0
        return 0 if compared.anew else max(kept, resume.behind.generation if resume.behind is not None else 0), stands

    def forget_lost(self, compared: Reconciliation) -> None:
        """Makes the ledger forget, in a transaction, the spool's messages that Redis lost: they are due again."""
        kept, stands = self._standing(compared.resume.get(self.name, Resume()), compared)
        forget_above(self._ledger, self._stream, _removed_up_to(compared, self.memory.number, kept), stands)
        self._intake.forget()

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
        stored = self.stored or _checkpoint(0, 0)
        return Checkpoint.from_json(stored).position, stored

    @property
    def skipped_since(self) -> float | None:
        """Always None for a spool: a folder has nothing that the spool's cursor could skip."""
        return None

    def next_wake(self) -> float | None:
        """Returns after how many seconds a spool is looked at again, as a file changed lately; or None."""
        return self.patience if self._intake.soon else None

    def next_batch(self, limit: int) -> SourceBatch | None:
        """Makes the spool's next source batch of up to `limit` messages; None: nothing is due now.

        A batch that may be in the stream already is sent again first. Raises RejectStop, SourceError, LedgerError.
        """
        self._intake.look_again()
        if not self.memory.live and self._intake.soon and self._clock() < self._patient:
            return None
        if self._unsure:
            number = self._unsure.pop(0)
            return self._batch_again(number, spool_messages.due(self._ledger, self._stream, limit, batch=number))
        if not self._ahead:
            self._give_batches(limit)
        if self._ahead:
            return self._batch_of(*self._ahead.popleft())
        self._note_landed()
        self._counted = -2.0, self._counted[1]  # nothing is due: `_totals` counts anew
        if not self.memory.live and not self._sending and not self._intake.soon:
            self.go_live("its history is in the stream")
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
            self._intake.unreadable[due.name] = error
            if (found := self._folder.find(due.name)) is not None:
                self._intake.wait(found, self._clock(), self._clock() + UNREADABLE)
            return None
        if taken is None or taken.facts != due.facts:
            if (found := self._folder.find(due.name)) is not None:
                self._intake.wait(found, self._clock(), self._clock())
            else:
                self.notices.append(f"{shown_name(due.name)} was gone before it could be carried")
            return None
        return replace(due, raw=taken.raw)

    def _message(self, due: DueMessage) -> DocumentMessage:
        return self._mapping.document(os.fsdecode(due.name), due.facts.written).read(due.raw or b"")

    def _batch_again(self, number: int, ones: list[DueMessage]) -> SourceBatch:
        """Makes the source batch of a spool's numbered batch from before the last connect, as it was."""
        made: list[tuple[Row, int]] = []
        for due in ones:
            message = self._message(due)
            row = message.row if isinstance(message.row, tuple) else (b"", b"", b"", due.raw or b"")
            made.append((row, message.time))
        return self._batch_of(number, made)

    def _batch_of(self, number: int, made: list[tuple[Row, int]], written: float = 0.0) -> SourceBatch:
        self._sending.add(number)
        cursor = Cursor(self._keys.checkpoint, os.fsencode(self.name), _checkpoint(number, len(made)))
        batch = SourceBatch(self, cursor, Position(number, len(made)), Position(number, 0))
        batch.rows = [row for row, _ in made]
        batch.prefix, batch.offsets = b"%d.%d:" % (self.memory.number, number), list(range(len(made)))
        if self.memory.live:
            batch.written = written
        else:
            batch.times = [at for _, at in made]
        return batch

    def cursor_batch(self) -> SourceBatch | None:
        """Always None for a spool: its cursor never moves without entries."""
        return None

    def committed(self, batch: SourceBatch, stored: bytes) -> None:
        """Notes that a batch of the spool is in the stream, and that Redis holds `stored` as the spool's cursor."""
        self.stored = stored
        self.counts.entries += len(batch.rows)
        if batch.times:
            self.counts.timed(batch.times)
        self._landed.append(batch.position.generation)
        self._sending.discard(batch.position.generation)

    def flush(self) -> SourceBatch | None:
        """Notes in the ledger which batches of the spool are in the stream; always None, as a spool skips nothing."""
        self._note_landed()
        return super().flush()

    def _note_landed(self) -> None:
        if self._landed:
            with self._ledger.transaction():
                self._write_landed()
            self._landed.clear()

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
                    mark_retried(self._ledger, aside.number, f"origin {self.memory.number}.{number}", self._clock())
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
