"""Bringing lines into a file, piece by piece if it must be, and knowing afterwards which bytes were ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bridge.carry.shared import keep_news
from bridge.codecs import Codec
from bridge.errors import NotYet, TargetError
from bridge.files.append import Appender
from bridge.files.generation import HEAD, Generation, pread
from bridge.files.tail import Tail
from bridge.ledger.mirrored import Intent, Range, Written, move_intent, range_digest
from bridge.ledger.sources import save_generation
from bridge.ledger.store import Ledger
from bridge.log import log
from bridge.mapping import MirrorSection
from bridge.points import reached


@dataclass(slots=True)
class Piece:
    """Bytes `a` to `b` of a write's content, which stand at `start` of a generation. Torn: written again since."""

    a: int
    b: int
    generation: int
    start: int
    torn: bool = False


@dataclass(slots=True)
class Write:
    """Whole lines for one file, and how much of them is there."""

    name: str
    content: bytes
    entries: list[Written]
    intent: int = 0
    generation: int = 0
    size: int = 0
    pieces: list[Piece] = field(default_factory=list)

    @property
    def done(self) -> int:
        """How many bytes of the content are there."""
        return max((piece.b for piece in self.pieces if not piece.torn), default=0)

    @property
    def end(self) -> int:
        """Where the last piece ends in its file."""
        return self.pieces[-1].start + self.pieces[-1].b - self.pieces[-1].a

    def tear(self) -> None:
        """Another writer followed a piece that ends in mid-line: what stands of that line is cut off and is torn."""
        last = self.pieces.pop()
        whole = self.content.rfind(b"\n", 0, last.b) + 1
        if whole > last.a:
            self.pieces.append(Piece(last.a, whole, last.generation, last.start))
        begin = max(whole, last.a)
        if begin < last.b:
            self.pieces.append(Piece(begin, last.b, last.generation, last.start + begin - last.a, torn=True))
        for piece in self.pieces:  # an earlier piece of the same line is torn with it
            if not piece.torn and piece.b > whole:
                piece.torn = True

    def ranges(self) -> list[Range]:
        """The pieces as ranges. Adjoining pieces are one range; an entry stands where its line ends."""
        merged: list[Piece] = []
        for piece in self.pieces:
            last = merged[-1] if merged else None
            if last and not last.torn and not piece.torn and last.b == piece.a and last.generation == piece.generation \
                    and last.start + last.b - last.a == piece.start:  # fmt: skip
                last.b = piece.b
            else:
                merged.append(Piece(piece.a, piece.b, piece.generation, piece.start, piece.torn))
        ends, at = [], 0
        for entry_id, length in self.entries:
            at += length
            ends.append((at, entry_id, length))
        found = []
        for piece in merged:
            inside = [(i, n) for end, i, n in ends if not piece.torn and piece.a < end <= piece.b]
            content = self.content[piece.a : piece.b]
            found.append(
                Range(
                    self.name, piece.generation, piece.start, piece.start + len(content), range_digest(content), inside
                )
            )
        return found


class Target:
    """One mirrored file. `tail` is the one forward reads it with, where it does, so both mean the same generation."""

    def __init__(self, root: Path, tail: Tail, section: MirrorSection, stream: str) -> None:
        self._root = root
        self._tail = tail
        self._section = section
        self._stream = stream
        self._file: Appender | None = None
        self._unfinished: tuple[int, float] = (-1, 0.0)
        self._generation: Generation | None = None

    def ready(self, ledger: Ledger, now: float) -> bool:
        """Opens the file at the path, and finds its generation. False while another writer's line in it is unfinished.

        Raises TargetError, SourceError, LedgerError.
        """
        file = self._open(ledger)
        if file.ends_whole():
            self._unfinished = (-1, 0.0)
            return True
        size = file.size()
        if self._unfinished[0] != size:
            self._unfinished = (size, now)
        limit = self._section.abandoned_line_s
        if limit is None or now - self._unfinished[1] < limit:
            return False
        log.warning("%s: ended a line that was left unfinished for %g s", self._tail.name, limit)
        with file.locked(self._section.lock):
            if file.size() == size:
                file.append(b"\n")
        return file.ends_whole()

    def place(self) -> tuple[int, int]:
        """The file's generation and size, for an intent; after `ready`."""
        if self._file is None or self._generation is None:
            raise AssertionError("not ready")
        return self._generation.number, self._file.size()

    def put(self, write: Write, ledger: Ledger) -> bool:
        """Appends what is missing of `write`. False while it has to wait for another writer's line to be finished.

        Raises TargetError when the disk is full: what was begun is finished by the next call, before anything else.
        """
        while write.done < len(write.content):
            file = self._file or self._open(ledger)
            last = write.pieces[-1] if write.pieces else None
            if last is not None and not last.torn:
                if file.size() != write.end or self._number(file) != last.generation:
                    log.warning(
                        "%s: a torn line of ours was followed by another's; it is written again whole", write.name
                    )
                    write.tear()
                    continue
            else:
                file = self._open(ledger)
                if not file.ends_whole():
                    return False
                number = self._number(file)
                if number != write.generation or write.pieces:
                    write.generation, write.size = number, file.size()
                    move_intent(ledger, write.intent, write.generation, write.size)
            reached("mirror.write.before")
            with file.locked(self._section.lock):
                start, end = file.append(write.content[write.done :])
            reached("mirror.write.after")
            if start < write.size and not write.pieces:  # truncated between the intent and the write
                self._look(ledger)
            a = write.done
            write.pieces.append(Piece(a, a + end - start, self._number(file), start))
            if write.done < len(write.content):
                raise TargetError(
                    f"only {end - start} of {len(write.content) - a} bytes could be written, is the disk full?",
                    where=str(file.path),
                    hint="make room; the mirror finishes the line by itself",
                )
        return True

    def remember(self, ledger: Ledger) -> None:
        """Lets the ledger know the generation by its first bytes, as soon as there are some: they may be ours alone."""
        one = self._tail.of_identity(self._file.identity) if self._file is not None else None
        if one is None or len(one.head) >= HEAD or one.read_to:
            return
        with self._tail.lock:
            one.extend_head()
            save_generation(ledger, self._stream, self._tail.name, one.known())

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def find(self, number: int) -> Generation | None:
        """The generation of this number, under whatever name its file has now."""
        with self._tail.lock:
            self._tail.look()
            return self._tail.of_number(number) or self._tail.reopen(number)

    def pending(self) -> list[Generation]:
        """The generations that forward has not carried to their end."""
        return self._tail.pending()

    def _open(self, ledger: Ledger) -> Appender:
        if self._file is not None and not self._file.still_there():
            self.close()
        if self._file is None:
            self._file = Appender(self._root, self._tail.name)
        self._look(ledger)
        self._generation = self._tail.of_identity(self._file.identity)
        if self._generation is None:
            self.close()
            raise NotYet("the file was replaced while it was opened")
        return self._file

    def _look(self, ledger: Ledger) -> None:
        with self._tail.lock:
            self._tail.look()
            for notice in keep_news(self._tail, ledger, self._stream):
                log.warning("%s", notice)

    def _number(self, file: Appender) -> int:
        one = self._tail.of_identity(file.identity)
        return one.number if one is not None else -1


def contains(generation: Generation, content: bytes) -> bool:
    """Whether these lines stand in the generation's file."""
    return generation.fd >= 0 and content in pread(generation.fd, generation.size(), 0)


def resolve(intent: Intent, target: Target, codec: Codec) -> tuple[Write, str]:
    """What became of an intent of an earlier process, and in words (DESIGN §6.3).

    Found: its pieces are noted. Found in part: the whole lines are noted, the rest is still to be written; a torn
    line at the end of the file is continued. Not found: all is still to be written.
    """
    write = Write(intent.name, intent.content, intent.entries, intent.id, intent.generation, intent.size)
    many = f"{len(intent.entries)} mirrored line{'s' if len(intent.entries) != 1 else ''}"
    generation = target.find(intent.generation)
    if intent.size == 0 and (generation is None or not contains(generation, intent.content)):
        # Its file was empty and so is known by nothing but its inode: the lines may stand in one that came after.
        generation = next((one for one in target.pending() if contains(one, intent.content)), generation)
    if generation is None or generation.fd < 0:
        return write, f"the file that {many} were to be written to is gone; written to its successor"
    data = pread(generation.fd, max(0, generation.size() - intent.size), intent.size)
    at = data.find(intent.content)
    if at >= 0:
        write.pieces = [Piece(0, len(intent.content), generation.number, intent.size + at)]
        return write, f"{many} had been written before the last stop"
    first = intent.content[: intent.content.index(b"\n") + 1]
    at = data.find(first)
    if at < 0:
        last_line = data.rfind(b"\n") + 1
        if last_line < len(data) and intent.content.startswith(data[last_line:]):
            at = last_line
    if at < 0:
        return write, f"{many} had not been written before the last stop"
    common = 0
    while common < min(len(intent.content), len(data) - at) and intent.content[common] == data[at + common]:
        common += 1
    whole = intent.content.rfind(b"\n", 0, common) + 1
    followed = at + common < len(data)
    if followed and codec.decode((data[at + whole :].partition(b"\n")[0],)).rows[0].__class__ is tuple:
        common = whole  # what follows our whole lines is another writer's whole line that begins alike
    if common:
        write.pieces = [Piece(0, common, generation.number, intent.size + at)]
    if followed:
        if common > whole:
            write.tear()
        return (
            write,
            f"{many} had been written in part and were followed by another writer's; the rest is written whole",
        )
    return write, f"{many} had been written in part; the rest is appended"
