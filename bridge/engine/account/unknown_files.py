"""Looks into unknown files, which the records do not explain: a copy, or a generation whose own file is gone.

Only the account uses that: nobody who decides what is carried asks here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bridge.core.model import Fingerprint, hex_digest
from bridge.engine.account.standing import PIECE
from bridge.files.content_form import SUFFIXES
from bridge.files.generation import TAIL, Generation, is_copy, open_regular
from bridge.files.generation_record import GenerationRecord
from bridge.files.named_file import NamedFile
from bridge.files.piece_age import bare
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.file_standings import COPY, UNACCOUNTED
from bridge.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class FileEvidence:
    """Evidence about an unknown file from its bytes: the file's standing, why, and the generation that it is."""

    standing: str
    why: str
    generation: int | None = None


class UnknownFiles:
    """Looks into unknown files of one mapping of logs, of which no record tells. `ledger`: None where there is none."""

    def __init__(self, shared: MappingContext, ledger: Ledger | None) -> None:
        self._shared = shared
        self._catalog = shared.catalog
        self._ledger = ledger

    def tell(self, listed: NamedFile) -> FileEvidence | None:
        """Tells whether an unknown file's bytes are those of another file, or of a generation whose own file is gone.

        None: the bytes are neither's. Raises SourceError.
        """
        file = open_regular(self._catalog.root / listed.name)
        if file is None:
            return None
        try:
            if twin := self._twin(listed):
                return self._copy(file, [twin])
            others = [
                other.name for other in self._catalog.named.values()
                if other.log == listed.log and other is not listed and not (other.of or other.aside)
            ]  # fmt: skip
            gone = self._gone(listed)
            return _whole(file, gone) or self._copy(file, others) or _edited(file, gone)
        finally:
            file.close()

    def _twin(self, listed: NamedFile) -> str | None:
        """Returns the name of the file that lies beside an unknown packed file and counts in its place, or None."""
        short = bare(listed.name)
        beside = [short, *(f"{short}{suffix}" for suffix in SUFFIXES)]
        return next((other for other in beside[: beside.index(listed.name)] if other in self._catalog.named), None)

    def _copy(self, file: Generation, others: Iterable[str]) -> FileEvidence | None:
        """Tells which other file an unknown file is a copy of: one that begins with all of its bytes; None: of none."""
        for name in others:
            other = open_regular(self._catalog.root / name)
            if other is None:
                continue
            try:
                if file.content is not None and other.content is not None and is_copy(file.content, other.content):
                    return FileEvidence(COPY, f"its bytes are those of {name}")
            finally:
                other.close()
        return None

    def _gone(self, listed: NamedFile) -> list[GenerationRecord]:
        """Lists the finished generations of an unknown file's log whose own files are gone."""
        here = self._catalog.lying(listed.log or "", listed.identity)
        records = self._shared.tail(listed.log or listed.name, self._ledger).records()
        return [known for known in records if known.number not in here and known.closed and known.at.head_len]


def is_known_by(file: Generation, at: Fingerprint, *, ends: bool = True) -> bool:
    """Whether an unknown file's own bytes have the digests of a generation's first and last bytes.

    Not `ends`: only of the first; for the last a compressed file would be unpacked.
    """
    back = min(TAIL, at.offset)
    begins = hex_digest(file.read(at.head_len, 0)) == at.head
    return begins and (not ends or hex_digest(file.read(back, at.offset - back)) == at.tail)


def _whole(file: Generation, gone: Iterable[GenerationRecord]) -> FileEvidence | None:
    """Tells of which gone generation an unknown file holds exactly what was carried; None: of none."""
    found = (known for known in gone if file.size() == known.at.offset and is_known_by(file, known.at))
    known = next(found, None)
    return FileEvidence(PIECE, "its content is that generation's", known.number) if known is not None else None


def _edited(file: Generation, gone: Iterable[GenerationRecord]) -> FileEvidence | None:
    """Tells of which gone generation an unknown file is an edited form: it begins or ends alike; None: of none."""
    size = file.size()
    for known in gone:
        back = min(TAIL, known.at.offset)
        begins = hex_digest(file.read(known.at.head_len, 0)) == known.at.head
        if begins or (size >= back and hex_digest(file.read(back, size - back)) == known.at.tail):
            why = f"it begins or ends as generation {known.number} did, which was carried: it was edited since"
            return FileEvidence(UNACCOUNTED, why)
    return None
