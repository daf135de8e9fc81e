"""Files of the archive that a person edited by hand, to take redacted messages out: all else in them is as it was.

Of what stands between redacted lines the ledger has the digests, so that it is found again where a line was taken out
or written over, and the file packed anew. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from bridge.core.model import EntryId, digest
from bridge.ledger.archive_index import ArchivedEntry, ArchiveFile, ArchivePart


def pieces_of(listed: Sequence[ArchivedEntry], lines: Sequence[bytes], gone: Collection[EntryId]) -> list[ArchiveFile]:
    """Makes the pieces of a part that stand between its redacted lines; `lines`, with newlines, of what it lists."""
    found, held, between = list[ArchiveFile](), list[bytes](), 0
    for entry, line in zip(listed, lines, strict=True):
        if entry.id not in gone:
            held.append(line)
            continue
        if held:
            found.append(_piece(between, held))
            held, between = [], 0
        between += 1
    return [*found, _piece(between, held)]


def _piece(between: int, held: Sequence[bytes]) -> ArchiveFile:
    content = b"".join(held)
    return ArchiveFile(between, len(content), digest(content))


def unedited(raw: bytes, parts: Iterable[tuple[ArchivePart, Sequence[ArchiveFile]]]) -> dict[int, bytes]:
    """Finds in all that a file holds, unpacked, what is left of each of its parts, by where the part began in it.

    For each redacted line one line may stand there, or none. Stops at the first part of which something is missing.
    """
    found: dict[int, bytes] = {}
    at = between = 0
    for part, pieces in parts:
        kept = []
        for piece in pieces:
            between += piece.between
            if not piece.length:
                continue
            for _ in range(between + 1):
                if digest(raw[at : at + piece.length]) == piece.digest:
                    break
                at = raw.find(b"\n", at) + 1 or len(raw)
            else:
                return found
            kept.append(raw[at : at + piece.length])
            at, between = at + piece.length, 0
        found[part.at] = b"".join(kept)
    return found
