"""Declares the mirror's target and the pending write to it: whole lines, and how much of them stands in the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from bridge.core.codecs import Codec
from bridge.core.model import ZERO_ID, digest
from bridge.ledger.ranges import Intent, Range, WrittenEntry, range_digest
from bridge.ledger.seen_entries import ReleasedLine
from bridge.ledger.store import Ledger

UNPLACED = -1
"""The `start` of a `WrittenSpan` whose bytes were written, and whose place in the file was not looked up yet."""


@dataclass(slots=True)
class WrittenSpan:
    """A span that the mirror wrote to its target: bytes `a` to `b` of a write's content, at `start` of a generation.

    `torn`: no line of the span counts, its bytes are written again. `sure`: the file was looked at after the write, and
    still had a name; until then `generation` and `torn` may have to be corrected.
    """

    a: int
    b: int
    generation: int
    start: int
    torn: bool = False
    sure: bool = True


@dataclass(slots=True)
class PendingWrite:
    """A pending write of the mirror to one target: whole lines, their entries, and the spans written so far."""

    name: str
    content: bytes
    entries: list[WrittenEntry]
    intent: int = 0
    generation: int = 0
    size: int = 0
    pieces: list[WrittenSpan] = field(default_factory=list)
    excused: int = 0
    """Bytes that the mirror put out for this write and that count as no line: torn spans that are ranges already."""
    to: Target | None = None
    """The target that brings the lines into their file; None: not looked up yet."""

    @property
    def done(self) -> int:
        """How many bytes of a pending write stand in the target's file, from the first on; torn spans do not count."""
        return max((piece.b for piece in self.pieces if not piece.torn), default=0)

    @property
    def end(self) -> int:
        """The offset in the target's file at which the last span of a pending write ends."""
        return self.pieces[-1].start + self.pieces[-1].b - self.pieces[-1].a

    def tear(self) -> None:
        """Marks as torn the written part of a pending write's last line, as another writer came in its middle.

        Each span with a part of that line is cut in two there: the whole lines before it still count.
        """
        whole = self.content.rfind(b"\n", 0, self.pieces[-1].b) + 1
        pieces, self.pieces = self.pieces, []
        for piece in pieces:
            if piece.torn or piece.b <= whole:
                self.pieces.append(piece)
                continue
            if piece.a < whole:
                self.pieces.append(WrittenSpan(piece.a, whole, piece.generation, piece.start))
            begin = max(piece.a, whole)
            self.pieces.append(WrittenSpan(begin, piece.b, piece.generation, piece.start + begin - piece.a, torn=True))

    def tear_if_parted(self) -> bool:
        """Marks as torn the line that a pending write ended last, if another writer's bytes lie between its parts.

        Returns whether the line is torn.
        """
        *begun, last = self.pieces
        begin = self.content.rfind(b"\n", 0, last.b - 1) + 1
        parts = [piece for piece in self.pieces if not piece.torn and piece.b > begin]
        places = [(piece.generation, piece.start, piece.start + piece.b - piece.a) for piece in parts]
        if self.content[last.b - 1 : last.b] != b"\n" or all(
            (generation, start) == (before, end) for (before, _, end), (generation, start, _) in pairwise(places)
        ):
            return False
        self.pieces = begun
        self.tear()
        last.torn = True
        self.pieces.append(last)
        return True

    def left(self, entries: list[WrittenEntry]) -> tuple[bytes, list[WrittenEntry]]:
        """Returns the lines of a pending write that are still to be written, and their part of `entries`.

        Changes nothing.
        """
        done, at, passed = self.done, 0, 0
        while at < done:
            at += entries[passed][1]
            passed += 1
        return self.content[done:], entries[passed:]

    def lost(self, standing: list[WrittenEntry]) -> list[ReleasedLine]:
        """Makes the ledger's records of written lines of a pending write whose entries Redis lost meanwhile.

        `standing` are the write's entries, with 0-0 in place of those that Redis lost. Changes nothing.
        """
        found, at = [], 0
        for (entry_id, length), (now, _) in zip(self.entries, standing, strict=True):
            piece = next((piece for piece in self.pieces if not piece.torn and piece.a <= at < piece.b), None)
            if now == ZERO_ID != entry_id and piece is not None:
                line, start = self.content[at : at + length], piece.start + at - piece.a
                found.append(ReleasedLine(entry_id, digest(line), self.name, piece.generation, start, length))
            at += length
        return found

    def ranges(self, entries: list[WrittenEntry]) -> list[Range]:
        """Makes the ranges that the ledger keeps of a pending write, from its spans in the target's file and entries.

        Pure. Adjoining spans are one range; a line whose entry Redis lost is in none of them.
        """
        disowned = ZERO_ID in (entry_id for entry_id, _ in entries)
        merged: list[WrittenSpan] = []
        for piece in self.pieces:
            last = merged[-1] if merged else None
            if last and not last.torn and not piece.torn and last.b == piece.a and last.generation == piece.generation \
                    and last.start + last.b - last.a == piece.start:  # fmt: skip
                last.b = piece.b
            else:
                merged.append(WrittenSpan(piece.a, piece.b, piece.generation, piece.start, piece.torn))
        all_of_it = len(merged) == 1 and (merged[0].a, merged[0].b) == (0, len(self.content))
        if all_of_it and not merged[0].torn and not disowned:
            at = merged[0].start
            digest = range_digest(self.content)
            return [Range(self.name, merged[0].generation, at, at + len(self.content), digest, entries)]
        spans, at = [], 0
        for entry_id, length in entries:
            spans.append((at, at + length, entry_id, length))
            at += length
        found = []
        for piece in merged:
            inside = [span for span in spans if span[0] < piece.b and span[1] > piece.a]
            if piece.torn or not disowned:
                runs = [(piece.a, piece.b, inside)]
            else:
                runs = [(max(span[0], piece.a), min(span[1], piece.b), [span]) for span in inside if span[2] != ZERO_ID]
            for a, b, whole in runs:
                content, start = self.content[a:b], piece.start + a - piece.a
                ended = [(i, n) for _, end, i, n in whole if not piece.torn and a < end <= b]
                found.append(Range(self.name, piece.generation, start, start + b - a, range_digest(content), ended))
        return found


class Target(Protocol):
    """The target of one write of the mirror: a file that lines are appended to, or a new file.

    All methods raise TargetError, LedgerError.
    """

    put_out: int
    """Bytes that the mirror wrote to this target and that the write witness has not counted yet."""

    @property
    def label(self) -> str:
        """The name of the mirror's target, under which Redis is told how far the mirror came with it."""
        ...

    def take(self, ledger: Ledger, now: float, *, torn: bool = False) -> str:
        """Opens and locks the file that is the mirror's target, or writes the new file under a hidden name.

        Returns why the mirror must wait, or an empty string. Call `release` later.
        """
        ...

    def place(self) -> tuple[int, int]:
        """Returns where the mirror is about to write: generation and size in bytes of the target's file.

        Call `take` first.
        """
        ...

    def put(self, write: PendingWrite, ledger: Ledger, now: float) -> str:
        """Writes to the mirror's target the missing bytes of a pending write.

        Returns why the mirror must wait, or an empty string.
        """
        ...

    def resolve(self, intent: Intent, codec: Codec) -> tuple[PendingWrite, str]:
        """Finds out which bytes of an intent an earlier process wrote to the mirror's target.

        Returns the pending write, and in words what became of it.
        """
        ...

    def remember(self, ledger: Ledger) -> None:
        """Notes in the ledger which file the mirror's target is, in the transaction that notes its lines' range."""
        ...

    def release(self) -> None:
        """Releases what `take` acquired of the mirror's target, such as the lock on a file."""
        ...

    def close(self) -> None:
        """Closes whatever the mirror's target has open."""
        ...
