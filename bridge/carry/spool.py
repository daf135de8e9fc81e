"""A folder with a file per message on its way to the stream: each message exactly once, without a cursor in the folder.

The ledger holds what is due, with its bytes, and gives it a batch before it is sent; the batch's number travels in the
transaction with the entries, as the checkpoint's generation. After a break the same batch is sent again as it was, or
is known to be in. So nothing is lost or doubled, and nothing in Redis grows with the files.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from bridge.carry.draft import Draft
from bridge.carry.intake import UNREADABLE, Intake
from bridge.carry.merge import BATCH_BYTES
from bridge.carry.refill import Compared, Resume
from bridge.carry.source import Source
from bridge.codecs.document import Message
from bridge.errors import SourceError
from bridge.files.spool import Folder
from bridge.ledger import spool as memory
from bridge.ledger.mirrored import Range
from bridge.ledger.quarantine import anything_aside, find_quarantined, mark_retried
from bridge.ledger.spool import Due
from bridge.ledger.store import Ledger
from bridge.log import log
from bridge.mapping import Mapping
from bridge.model import Checkpoint, Fingerprint, Origin, Position, Row, digest, paired, shown_name
from bridge.points import reached
from bridge.streams.keys import Keys
from bridge.streams.writer import Cursor

AHEAD = 10
"""Batches that are given their numbers in one transaction."""

PATIENCE = 1.0
"""Seconds that history waits for files which were written just now."""


class SpoolSource(Source):
    """One folder."""

    def __init__(
        self, mapping: Mapping, keys: Keys, folder: Folder, ledger: Ledger, clock: Callable[[], float]
    ) -> None:
        super().__init__(mapping, mapping.source.path, deque(), ledger, clock)
        self._mapping = mapping
        self._keys = keys
        self._folder = folder
        self._limit = mapping.format.max_line_bytes
        self._intake = Intake(mapping, folder, ledger, clock, self.notices)
        self._sending: set[int] = set()
        self._ahead: deque[tuple[int, list[tuple[Row, int]], float]] = deque()
        """Batches that were given their numbers and not handed out."""
        self._landed: list[int] = []
        """Batches that are in, as far as the ledger was not told."""
        self._unsure: list[int] = []
        """Batches of before that may be in or not: they are sent again first."""
        self._next = 1
        self._counted: tuple[float, tuple[int, int, int, int | None]] = (-2.0, (0, 0, 0, None))
        self._patient = 0.0
        """Until then, in seconds since 1970, history waits for files that are not complete: they may come before."""

    # -- the folder ------------------------------------------------------------------------------------------

    def look(self, paths: set[str] | None) -> bool:
        """As the base class says. What may not be read is told, and the others go on."""
        looked = self._intake.look(paths)
        tight = [self._intake.tight] if self._intake.tight is not None else []
        self.unreadable = next(iter([*tight, *self._intake.unreadable.values(), *self._folder.unreadable]), None)
        return looked

    def keep_news(self) -> list[str]:
        """What is to be said in the log."""
        said = list(self.notices)
        self.notices.clear()
        return said

    @property
    def present(self) -> bool:
        """There is always a folder, or its place."""
        return True

    def end(self) -> Position | None:
        """Not a place, only whether anything is due: that is history when the folder is first met."""
        self._counted = time.monotonic(), memory.totals(self._ledger, self._stream)
        due = self._counted[1][1]
        return Position(1, 0) if due or self._intake.waiting else None

    def take_as_history(self) -> None:
        """As the base class says."""
        if self.end() is not None:
            self.memory = replace(self.memory, live=False, history=Position(1, 0))

    def content_of(self, one: Range) -> bytes:
        """What stands in the file that the mirror made."""
        taken = self._folder.read(os.fsencode(one.name), self._limit + 1)
        return taken.raw if taken is not None else b""

    @property
    def rejected(self) -> int:
        """Files that were set aside."""
        return self._intake.rejected

    @property
    def settling(self) -> int:
        """As the base class says."""
        return len(self._intake.waiting)

    def left(self) -> int:
        """As the base class says."""
        return self._totals()[2]

    def on_disk(self) -> int:
        """As the base class says."""
        carried, _, due, _ = self._totals()
        return carried + due

    def _totals(self) -> tuple[int, int, int, int | None]:
        """Counted once a second at most: an import asks often, and there may be many."""
        now = time.monotonic()
        if now >= self._counted[0] + 1:
            self._counted = now, memory.totals(self._ledger, self._stream)
        return self._counted[1]

    def unfinished(self) -> int:
        """Bytes of files that are not complete."""
        return sum(one.facts.size for one in self._intake.waiting.values())

    # -- the batches -----------------------------------------------------------------------------------------

    def place(self, resume: Resume, compared: Compared) -> None:
        """As the base class says: the batch that Redis names is in, later ones are sent again."""
        mine = self.memory.number
        numbers = {number for source, number in compared.standing if source == mine}
        stands = {number: places for (source, number), places in compared.offsets.items() if source == mine}
        kept = resume.checkpoint.generation if resume.checkpoint is not None else 0
        kept = 0 if compared.anew else max(kept, resume.behind.generation if resume.behind is not None else 0)
        self._sending.clear()
        self._ahead.clear()
        self._landed.clear()
        self._next = max([kept, memory.last_batch(self._ledger, self._stream), *numbers]) + 1
        for number, size in memory.batches(self._ledger, self._stream).items():
            # A batch is in as a whole or not at all: a place of it alone was named by somebody else.
            whole = len(stands[number]) >= size if number in stands else number in numbers
            if number <= kept or whole:
                self._landed.append(number)
        self._note_landed()
        if compared.lost:
            memory.unsend(self._ledger, self._stream)
            memory.forget_above(self._ledger, self._stream, kept, stands)
            self._intake.forget()
        if not self.memory.live:
            self._patient = self._clock() + PATIENCE
        self._unsure = [*memory.batches(self._ledger, self._stream)]

    def vouches(self, origin: Origin, fields: list[bytes]) -> bool:
        """Whether the ledger knows that these data were sent so."""
        values = paired(fields)
        row = tuple(values.get(name, b"") for name in self.codec.fields)
        sent = memory.digest_at(self._ledger, self._stream, origin.generation, origin.offset)
        return sent is not None and sent == self._digest(row)

    def _digest(self, row: Row) -> bytes:
        """What the ledger keeps of a message that was sent."""
        return digest(*row)

    def checkpoint(self) -> tuple[Position, bytes] | None:
        """The last batch that is in."""
        stored = self.stored or _checkpoint(0, 0)
        return Checkpoint.from_json(stored).position, stored

    @property
    def skipped_since(self) -> float | None:
        """There is nothing to skip."""
        return None

    @property
    def waits(self) -> bool:
        """Whether a file changed so lately that it is not complete by that alone."""
        return self._intake.soon

    @property
    def in_history(self) -> bool:
        """As the base class says."""
        return False  # one folder is one source: there is nothing to merge it with

    def next_draft(self, limit: int) -> Draft | None:
        """As the base class says."""
        self._intake.look_again()
        if not self.memory.live and self._intake.soon and self._clock() < self._patient:
            return None
        if self._unsure:
            number = self._unsure.pop(0)
            return self._draft(number, memory.due(self._ledger, self._stream, limit, batch=number))
        if not self._ahead:
            self._give_batches(limit)
        if self._ahead:
            return self._made(*self._ahead.popleft())
        self._note_landed()
        self._counted = -2.0, self._counted[1]  # nothing is due: the next count is of the end
        if not self.memory.live and not self._sending and not self._intake.soon:
            self.go_live("its history is in the stream")
            self.remember()
        return None

    def _give_batches(self, limit: int) -> None:
        """Some batches ahead: a transaction for each would write most pages of the ledger each time."""
        waiting = memory.due(self._ledger, self._stream, limit)
        if not waiting:
            return
        number, size = self._next, 0
        made: list[tuple[int, list[tuple[Row, int]], float]] = []
        reached("spool.batch.before")
        with self._ledger.transaction():
            self._write_landed()
            while waiting and len(made) < AHEAD and size < BATCH_BYTES:
                ready = self._ready(waiting)
                size += sum(len(one.raw or b"") for one, _, _ in ready)
                if ready:
                    memory.send(
                        self._ledger, self._stream, number,
                        ((one.key, one.raw or b"", self._digest(row)) for one, row, _ in ready),
                    )  # fmt: skip
                    written = min(one.facts.written for one, _, _ in ready) / 1e9
                    made.append((number, [(row, at) for _, row, at in ready], written))
                    number += 1
                waiting = memory.due(self._ledger, self._stream, limit)
        reached("spool.batch.after")
        self._landed.clear()
        self._next = number
        self._ahead.extend(made)

    def _ready(self, waiting: list[Due]) -> list[tuple[Due, Row, int]]:
        """As many of these as a batch may have bytes, with their rows and times; one that is gone is due no more."""
        ready: list[tuple[Due, Row, int]] = []
        size = 0
        for one in waiting:
            whole = one if one.raw is not None else self._again(one)
            message = self._message(whole) if whole is not None else None
            if whole is None or message is None or isinstance(message.row, str):
                memory.drop_due(self._ledger, self._stream, one.key)
                continue
            size += len(whole.raw or b"")
            if ready and size > BATCH_BYTES:
                break
            ready.append((whole, message.row, message.time))
        return ready

    def _again(self, one: Due) -> Due | None:
        """With its bytes, as long as its file is what it was."""
        try:
            taken = self._folder.read(one.name, self._limit + 1)
        except SourceError as error:  # the others go on
            self._intake.unreadable[one.name] = error
            if (found := self._folder.find(one.name)) is not None:
                self._intake.wait(found, self._clock(), self._clock() + UNREADABLE)
            return None
        if taken is None or taken.facts != one.facts:
            if (found := self._folder.find(one.name)) is not None:
                self._intake.wait(found, self._clock(), self._clock())
            else:
                self.notices.append(f"{shown_name(one.name)} was gone before it could be carried")
            return None
        return replace(one, raw=taken.raw)

    def _message(self, one: Due) -> Message:
        return self._mapping.document(os.fsdecode(one.name), one.facts.written).read(one.raw or b"")

    def _draft(self, number: int, ones: list[Due]) -> Draft:
        """A batch of before, as it was."""
        made: list[tuple[Row, int]] = []
        for one in ones:
            message = self._message(one)
            row = message.row if isinstance(message.row, tuple) else (b"", b"", b"", one.raw or b"")
            made.append((row, message.time))
        return self._made(number, made)

    def _made(self, number: int, made: list[tuple[Row, int]], written: float = 0.0) -> Draft:
        self._sending.add(number)
        cursor = Cursor(self._keys.checkpoint, os.fsencode(self.name), _checkpoint(number, len(made)))
        draft = Draft(self, cursor, Position(number, len(made)), Position(number, 0))
        draft.rows = [row for row, _ in made]
        draft.prefix, draft.offsets = b"%d.%d:" % (self.memory.number, number), list(range(len(made)))
        if self.memory.live:
            draft.written = written
        else:
            draft.times = [at for _, at in made]
        return draft

    def here(self) -> Draft | None:
        """The cursor never moves without entries."""
        return None

    def landed(self, draft: Draft, stored: bytes) -> None:
        """As the base class says."""
        self.stored = stored
        self.tally.entries += len(draft.rows)
        if draft.times:
            self.tally.timed(draft.times)
        self._landed.append(draft.position.generation)
        self._sending.discard(draft.position.generation)

    def flush(self) -> Draft | None:
        """As the base class says; and what is in is noted."""
        self._note_landed()
        return super().flush()

    def _note_landed(self) -> None:
        if self._landed:
            with self._ledger.transaction():
                self._write_landed()
            self._landed.clear()

    def _write_landed(self) -> None:
        """Inside a transaction: the ledger knows that these batches are in. Until then, Redis does."""
        for number in self._landed:
            reached("spool.landed.before")
            names = memory.landed(self._ledger, self._stream, number)
            reached("spool.landed.after")
            for name in names if anything_aside(self._ledger, self._stream) else ():
                aside = find_quarantined(self._ledger, self._stream, name=shown_name(name))
                if aside is not None and not aside.retried:
                    mark_retried(self._ledger, aside.number, f"origin {self.memory.number}.{number}", self._clock())
            log.debug("%s: batch %d is in", self.name, number)


def _checkpoint(number: int, count: int) -> bytes:
    return Checkpoint(number, Fingerprint(count, 0, "", "")).to_json()
