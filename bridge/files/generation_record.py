"""The record that is kept of a generation: by what its file is recognised, and how far it was carried."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bridge.core.model import Fingerprint

UNREAD = (0, 0)
"""The `packed` of a record whose compressed file holds more than was carried: no size and mtime to know it again by."""


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """The record of a generation that the ledger keeps: what its file is recognised by, and how far it was carried.

    `packed`: size and mtime of the compressed file that holds it, when it was recognised in one; `UNREAD` while, closed
    as it is, more of that file is to be carried. `born`: when its file was made, and `written`, when it was written to
    last, in ns since 1970; 0 where nobody can tell. `decided` is what put it behind the generation before, as
    `bridge.files.piece_age` has it; empty where that was not written down. `rewrites` is the generation whose file this
    one's took the place of, 0 for none; while it is `in_doubt` nobody has found out yet which of its lines were carried
    as that one's.
    """

    number: int
    device: int
    inode: int
    at: Fingerprint
    closed: bool = False
    packed: tuple[int, int] | None = None
    born: int = 0
    written: int = 0
    decided: str = ""
    rewrites: int = 0
    in_doubt: bool = False
    crc: int = -1
    """The CRC-32 of the bytes before `at.offset`; -1 where that is not known."""

    def at_place(self, at: Fingerprint) -> GenerationRecord:
        """Returns a generation's record as one that was carried up to another place, whose CRC-32 nobody knows."""
        return replace(self, at=at, crc=-1)

    def reopened(self, at: Fingerprint) -> GenerationRecord:
        """Returns a generation's record as one that is not closed, and was carried up to `at`."""
        return replace(self.at_place(at), closed=False, packed=None)

    def may_be_read(self, low: int, newest: int) -> bool:
        """Whether more bytes may come of a generation: not of old or packed ones that are closed, below `low`.

        Nor of one that was empty, which nothing but its inode tells, unless it is the newest.
        """
        if not self.at.head_len and (self.closed or self.number != newest):
            return False
        return not self.closed or (not self.packed and self.number >= low)
