"""Recovers parts of archive files from which a person cut redacted messages by hand and which were packed anew.

The lines between the redacted ones must be as they were. The ledger has the digests of those runs of lines, so that
each run is found again where a redacted line was taken out or overwritten. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from bridge.core.model import EntryId, digest
from bridge.ledger.archive_index import ArchivedEntry, ArchiveFile, ArchivePart


def pieces_of(listed: Sequence[ArchivedEntry], lines: Sequence[bytes], gone: Collection[EntryId]) -> list[ArchiveFile]:
    """Cuts the lines of an archive part into the runs that stand between its redacted lines, each with its digest.

    `listed` are the entries of the part, `lines` their lines with newlines, `gone` the redacted entries.
    """
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
    """Finds in an archive file that a person edited, unpacked, the rest of each of its parts, by the part's offset.

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
