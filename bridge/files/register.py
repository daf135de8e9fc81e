"""The generations of one source that are known, and by what a rotated file is seen to be one of them."""

from __future__ import annotations

from dataclasses import replace

from bridge.files.content import HEAD
from bridge.files.generation import Generation, Known
from bridge.model import Fingerprint


class Register:
    """`known` by number; `news` are those that the ledger does not know so yet."""

    def __init__(self, known: list[Known]) -> None:
        self.known = {one.number: one for one in known}
        self.news: list[Known] = []

    def note(self, one: Generation, *, closed: bool = False) -> None:
        """What it is known by now."""
        record = self.known[one.number] = one.known(closed=closed)
        self.news.append(record)

    def amend(self, number: int, at: Fingerprint) -> None:
        """A generation is known by more than was written down of it here."""
        self.known[number] = replace(self.known[number], at=at)
        self.news.append(self.known[number])

    def recognised(self, one: Generation, record: Known) -> None:
        """A closed generation was compressed: the next look knows it without unpacking it."""
        if one.packed is not None:
            record = replace(record, device=one.identity[0], inode=one.identity[1], packed=one.packed)
            self.known[record.number] = record
            self.news.append(record)

    def remembers(self, one: Generation) -> Known | None:
        """The generation that this compressed file was seen to be before, and it was not written to since."""
        return next((record for record in self.known.values() if _remembered(one, record)), None)

    def seen(self, one: Generation, files: list[Generation]) -> Known | None:
        """The closed generation that this file is, or is a copy of; None when it is none.

        Equal content proves that only where the known generation's own file is not among `files`: two generations
        may well begin with the same line.
        """
        known = self.remembers(one)
        if known is not None:
            return known
        present = {other.identity for other in files}
        for record in self.known.values():
            identity = (record.device, record.inode)
            if not record.closed or not record.at.head_len:
                continue
            if (one.identity == identity or identity not in present) and _is(one, record):
                self.recognised(one, record)
                return record
        return None

    def older(self, one: Generation, files: list[Generation], than: list[Known]) -> bool:
        """Whether a file that is one of these stands after this one in age order."""
        place = next(i for i, other in enumerate(files) if other is one)
        read = [record for record in than if record.at.head_len]
        return any(any(_remembered(other, r) or other.holds(r.at) for r in read) for other in files[place + 1 :])


def _remembered(one: Generation, record: Known) -> bool:
    return bool(one.packed) and (one.packed, one.identity) == (record.packed, (record.device, record.inode))


def _is(one: Generation, record: Known) -> bool:
    """Whether a file holds what a closed generation did; a compressed one may hold more, if that one was cut short."""
    at, same = record.at, one.identity == (record.device, record.inode)
    if one.packed is None and not same and one.size() != at.offset:
        return False
    return one.holds(at) and (same or one.packed is None or at.offset >= HEAD or not one.read(1, at.offset))
