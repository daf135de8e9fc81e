"""Appends the mirror's lines to their target, a log file, and records afterwards which bytes the mirror wrote.

A write goes in piece by piece, if it must.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bridge.core.codecs import Codec
from bridge.core.errors import NotYet, SourceError, TargetError
from bridge.core.failpoints import failpoint
from bridge.core.logger import logger
from bridge.core.mapping_sections import MirrorSection
from bridge.files.appender import Appender
from bridge.files.catalog import Catalog
from bridge.files.content import HEAD_BYTES
from bridge.files.generation import Generation
from bridge.files.log_catalog import taken_by
from bridge.files.tail import Tail
from bridge.kinds.log.unfinished_write import resolve
from bridge.kinds.mapping_context import keep_news
from bridge.kinds.target import UNPLACED, PendingWrite, WrittenSpan
from bridge.ledger.ranges import Intent, add_range, entries_of, move_intent
from bridge.ledger.seen_entries import note_released
from bridge.ledger.sources import save_generation
from bridge.ledger.store import Ledger

TORN = "%s: a torn line of ours was followed by another's; it is written again whole"
"""Warning about a mirrored line that another program wrote into, with the name of the target log."""


class LogTarget:
    """The mirror's target that is a log file: appends the lines which the mirror makes of entries.

    `tail` is the one that forward reads the file with, if it does, so that both mean the same generation. `catalog`
    tells whether the file of the target's name is another log by now.
    """

    def __init__(
        self, root: Path, tail: Tail, section: MirrorSection, stream: str, catalog: Catalog | None = None
    ) -> None:
        self._root = root
        self._tail = tail
        self._section = section
        self._stream = stream
        self._catalog = catalog
        self.put_out = 0
        self._file: Appender | None = None
        self._locked = False
        self._unfinished: tuple[int, float] = (-1, 0.0)
        self._generation: Generation | None = None

    @property
    def label(self) -> str:
        """The target log's path below the root, under which the mirror announces in Redis how far it came."""
        return self._tail.name

    def take(self, ledger: Ledger, now: float, *, torn: bool = False) -> str:
        """Opens the mirror's target log, takes the flock if the mapping says so, and finds the log's generation.

        Afterwards lines may be appended. Returns why the mirror must wait, or an empty string. `torn`: the unfinished
        line at the file's end is the mirror's own. Call `release` later. Raises TargetError, SourceError, LedgerError,
        NotYet.
        """
        file = self._open(ledger)
        if self._section.lock == "flock" and not self._locked:
            if not file.try_lock():
                return "another program holds the file's lock"
            self._locked = True
            if not file.still_there():  # rotated while the lock was awaited: the new file is the target
                self.release()
                raise NotYet("the file was replaced while it was locked")
            self._look(ledger)  # under the lock: what was written until now belongs to the size in the intent
        self._generation = self._tail.of_identity(file.identity)
        if self._generation is None:
            self.close()
            if self._catalog is not None and (other := taken_by(self._catalog, self._tail.name)):
                return f"the file of that name is {other}, renamed: move it away, or back"
            raise NotYet("the file was replaced while it was opened")
        if torn or file.ends_whole():
            self._unfinished = (-1, 0.0)
            return ""
        size = file.size()
        if self._unfinished[0] != size:
            self._unfinished = (size, now)
        limit = self._section.abandoned_line_s
        if limit is not None and now - self._unfinished[1] >= limit and file.size() == size:
            logger.warning("%s: ended a line that was left unfinished for %g s", self._tail.name, limit)
            file.append(b"\n")
            if file.ends_whole():
                return ""
        self.release()
        return "the file ends in the middle of a line that another program is writing"

    def release(self) -> None:
        """Releases the flock on the mirror's target log, if the mirror holds that lock."""
        if self._locked and self._file is not None:
            self._file.unlock()
        self._locked = False

    def place(self) -> tuple[int, int]:
        """Returns the generation number and the size in bytes of the target log, for the mirror's intent.

        Call `take` first.
        """
        if self._file is None or self._generation is None:
            raise AssertionError("not taken")
        return self._generation.number, self._file.size()

    def put(self, write: PendingWrite, ledger: Ledger, now: float) -> str:
        """Appends the missing bytes of a pending write to the target log; returns why the mirror must wait, or "".

        The bytes that went in are noted in `write` before anything else can fail, so a second call after an error
        continues after those. Raises TargetError when the disk is full: the next call first finishes the line that was
        begun. Raises SourceError, LedgerError, NotYet.
        """
        self._ascertain(write, ledger)
        while write.done < len(write.content):
            last = write.pieces[-1] if write.pieces else None
            torn = last is not None and not last.torn and write.content[last.b - 1 : last.b] != b"\n"
            if why := self.take(ledger, now, torn=torn):
                return why
            if self._file is None:
                raise AssertionError("not taken")
            file, (number, size) = self._file, self.place()
            if torn and last is not None:
                if size != write.end or number != last.generation:
                    logger.warning(TORN, write.name)
                    write.tear()
                    continue
            elif number != write.generation or size < write.size or write.pieces:
                self._move(write, ledger, number, size)
            failpoint("mirror.write.before")
            data = write.content[write.done :]
            if torn:  # the line's end goes alone: only afterwards is it known whether it follows the line's beginning
                data = data[: data.index(b"\n") + 1]
            with self._tail.lock:  # a look in between would take bytes written to a deleted file for lines of the log
                written = file.append(data)
                self.put_out += written
                write.pieces.append(
                    piece := WrittenSpan(write.done, write.done + written, number, UNPLACED, sure=False)
                )
                self._tail.owed = partial(self._disown, file, piece, data[:written])
            failpoint("mirror.write.after")
            self._ascertain(write, ledger)
            if written < len(data):
                raise TargetError(
                    f"only {written} of {len(data)} bytes could be written, is the disk full?",
                    where=str(file.path),
                    hint="make room; the mirror finishes the line by itself",
                )
        return ""

    def _ascertain(self, write: PendingWrite, ledger: Ledger) -> None:
        """Checks into which generation of the target log the mirror's last span went, and whether it was deleted.

        A second call does nothing. The descriptor that wrote the span is still open: no other one is opened before
        this check.
        """
        last = write.pieces[-1] if write.pieces else None
        if last is None or last.sure:
            return
        if self._file is None:
            raise AssertionError("the file was closed before it was known what stands in it")
        file, data = self._file, write.content[last.a : last.b]
        gone = self._disown(file, last, data)
        self._look(ledger)
        now_known = self._number(file)
        if now_known not in (last.generation, -1) and file.holds(last.start, data):
            last.generation = now_known  # it was emptied between our look and our write
        if gone or self._gone(file, last.start, data):
            logger.warning("%s: the file was deleted as lines were written to it; they are written again", write.name)
            for piece in write.pieces:  # forward reads the deleted file to its end: these bytes stay the mirror's
                piece.torn = piece.torn or piece.generation == last.generation
        if write.tear_if_parted():
            logger.warning(TORN, write.name)
        last.sure = True

    def _disown(self, file: Appender, piece: WrittenSpan, data: bytes) -> bool:
        """Whether the mirror's last span went into a deleted target log; then hides that span from forward's reader.

        Asked before the next look at the log, whoever looks: if this fails, so does that look. Raises SourceError.
        """
        with self._tail.lock:
            try:
                if piece.start == UNPLACED:
                    piece.start = file.position() - len(data)
                gone = self._gone(file, piece.start, data)
            except TargetError as error:
                raise SourceError(error.what, where=error.where, hint=error.hint) from None
            generation = self._tail.of_identity(file.identity)
            if gone and generation is not None and generation.content is not None:
                generation.content.disown(piece.start, piece.start + len(data))
            self._tail.owed = None
            return gone

    def _gone(self, file: Appender, start: int, data: bytes) -> bool:
        """Whether the target log was deleted, and no copy of the file holds the bytes that the mirror wrote."""
        return file.nameless and not self._tail.lies_elsewhere(file.identity, start, data)

    def _move(self, write: PendingWrite, ledger: Ledger, number: int, size: int) -> None:
        """Saves the part of a write that is in the target log as ranges, and moves the write's intent to the rest.

        The rest will stand at another place. Nothing in memory changes before the ledger has committed that.
        """
        with ledger.transaction():
            standing = entries_of(ledger, write.intent)
            for span in write.ranges(standing):
                add_range(ledger, self._stream, span)
            note_released(ledger, self._stream, write.lost(standing))
            content, entries = write.left(write.entries)
            move_intent(ledger, write.intent, number, size, content, entries, write.left(standing)[1])
        write.excused += sum(piece.b - piece.a for piece in write.pieces if piece.torn)
        write.content, write.entries, write.pieces = content, entries, []
        write.generation, write.size = number, size

    def remember(self, ledger: Ledger) -> None:
        """Saves the target log's generation in the ledger with the log's first bytes, as soon as there are some.

        All these bytes may be the mirror's.
        """
        generation = self._tail.of_identity(self._file.identity) if self._file is not None else None
        if generation is None or len(generation.head) >= HEAD_BYTES or generation.read_to:
            return
        with self._tail.lock:
            generation.extend_head()
            save_generation(ledger, self._stream, self._tail.name, generation.known())

    def close(self) -> None:
        """Closes the mirror's target log, and so gives the flock back to the other writers."""
        file, self._file, self._locked, self._tail.owed = self._file, None, False, None
        if file is not None:
            file.close()

    def find(self, number: int) -> Generation | None:
        """Returns the target log's generation of this number, whatever its file's name is now; None when gone."""
        with self._tail.lock:
            self._tail.look()
            return self._tail.of_number(number) or self._tail.reopen(number)

    def resolve(self, intent: Intent, codec: Codec) -> tuple[PendingWrite, str]:
        """Finds out how much of an intent an earlier mirror process wrote to the target log.

        Returns the write, and in words what was found of it.
        """
        return resolve(intent, self, codec)

    def deleted(self, generation: Generation, start: int, data: bytes) -> bool:
        """Whether this generation of the target log was deleted, and no copy of its file holds `data` at `start`."""
        return generation.nameless and not self._tail.lies_elsewhere(generation.identity, start, data)

    def after(self, number: int) -> list[Generation]:
        """Returns the target log's open generations that came after the one of this number, oldest first."""
        return [generation for generation in self._tail.pending() if generation.number > number]

    def _open(self, ledger: Ledger) -> Appender:
        if self._file is not None and not self._file.still_there():
            self.close()
        if self._file is None:
            self._file = Appender(self._root, self._tail.name)
        self._look(ledger)
        return self._file

    def _look(self, ledger: Ledger) -> None:
        with self._tail.lock:
            self._tail.look()
            for notice in keep_news(self._tail, ledger, self._stream):
                logger.warning("%s", notice)

    def _number(self, file: Appender) -> int:
        generation = self._tail.of_identity(file.identity)
        return generation.number if generation is not None else -1
