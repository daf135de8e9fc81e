"""Tells whether an unaccounted file is an edited piece: a finished generation that was edited after it was carried.

Such a file is not brought over as a whole: most of its lines are in the stream.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from bridge.engine.account.standing import FileStanding
from bridge.files.alignment import align
from bridge.files.generation import open_regular
from bridge.kinds.log import carried_before
from bridge.kinds.log.carried_before import GENERATION, CarriedLines
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.file_standings import EDITED, FileRecord, save_piece
from bridge.ledger.journal import note
from bridge.ledger.sources import generations_of, sources_of
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection


@dataclass(frozen=True, slots=True)
class EditedPiece:
    """An edited piece: an unaccounted file that holds what is left of generation `generation` of a log.

    `total` counts the file's messages, `passed` those of them that are in the stream already.
    """

    piece: FileStanding
    generation: int
    total: int
    passed: int


def note_edited(ledger: Ledger, stream: str, found: EditedPiece, who: str, at: float) -> None:
    """Notes in ledger and journal that a file is an edited piece of a log, so that the file is accounted for.

    `who` was told of that. It holds as long as the file does not change and Redis loses nothing. Raises LedgerError.
    """
    piece, why = found.piece, f"generation {found.generation}, edited since it was carried: parity tells what of it"
    with ledger.transaction():
        save_piece(ledger, stream, FileRecord(piece.path, EDITED, why, at, piece.facts, piece.bytes, who))
        facts = {"path": piece.path, "generation": found.generation, "lines": found.total, "in_stream": found.passed}
        note(ledger, at, who, "edited", stream, facts)


def edited_piece(
    connection: Connection, shared: MappingContext, ledger: Ledger, piece: FileStanding
) -> EditedPiece | None:
    """Aligns an unaccounted file with the carried lines of generations whose files are gone, to find an edited piece.

    None: the file shares no run of lines with those generations. Raises SourceError, RedisLost, RedisRefused,
    LedgerError.
    """
    stream, catalog = shared.mapping.stream.key, shared.catalog
    memory = sources_of(ledger, stream).get(piece.log)
    listed = catalog.named.get(piece.path)
    if memory is None or listed is None:
        return None
    here = catalog.lying(piece.log, listed.identity)
    ends = {
        known.number: known.at.offset
        for known in generations_of(ledger, stream, piece.log)
        if known.closed and known.at.head_len and known.number not in here
    }
    file = open_regular(listed.path) if ends else None
    if file is None:
        return None
    folder, codec = ledger.path.parent, shared.mapping.codec(piece.log)
    limit, key = shared.mapping.format.max_line_bytes, carried_before.by_meaning(codec)
    with (
        closing(file),
        closing(CarriedLines(shared, ledger, connection, piece.log, memory.number).read(ends, folder)) as old,
        closing(carried_before.in_file(carried_before.reading(file, file.size()), codec, limit, folder, key)) as new,
    ):
        starts, stops = new.starts.numbers(), new.ends.numbers()
        found = align(old.keys.numbers(), new.keys.numbers(), lambda n: stops[n] - starts[n])
        if not found.runs:
            return None
        which = old.starts.numbers()[found.runs[0].old] // GENERATION
        return EditedPiece(piece, which, len(starts), found.passed())
