"""Finds a log's replaced generations: parity looks for no file of theirs, as their lines stand in another file now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bridge.files.generation_record import GenerationRecord
from bridge.ledger.edits import CarriedSpan
from bridge.parity.log.generations import FilePieces, RecordedGeneration


def replaced(
    records: Sequence[GenerationRecord],
    known: Sequence[RecordedGeneration],
    stretches: Mapping[int, Sequence[CarriedSpan]],
    pieces: FilePieces,
) -> tuple[set[int], set[int]]:
    """Finds the generations of a log that another file replaced, and apart those whose own file lies there still.

    `records` are the ledger's, `known` those that are compared, `stretches`, by generation, what of a file was sent
    before. A closed generation whose lines were put into a later file, and whose own file is gone, counts as well.
    """
    edited = {record.rewrites for record in records if record.rewrites > 0 and not record.in_doubt}
    inodes = {(record.device, record.inode) for record in records if record.number not in edited}
    sums = {record.number: record.crc for record in records if record.crc >= 0}
    lying = {
        wanted.number for wanted in known
        if wanted.number in edited & sums.keys() and pieces.holds(wanted, sums[wanted.number], inodes)
    }  # fmt: skip
    put_back = {stretch.of for number, some in stretches.items() if number not in edited for stretch in some} - edited
    gone = {
        wanted.number for wanted in known
        if wanted.closed and wanted.number in put_back & sums.keys()
        and not pieces.holds(wanted, sums[wanted.number], set())
    }  # fmt: skip
    return edited - lying | gone, lying


def out_of_turn(records: Sequence[GenerationRecord], gone: set[int]) -> dict[int, int]:
    """Maps a generation that replaced an older one, but is numbered behind younger ones, to that one's number.

    It is compared under that number: a rotated piece that was edited, and met again behind younger ones, has the turn
    of the generation that it was.
    """
    numbers = {record.number for record in records} - gone
    edited = {record.number: record.rewrites for record in records if record.rewrites > 0 and not record.in_doubt}
    return {
        number: of for number, of in edited.items()
        if number in numbers and of in gone and any(of < other < number for other in numbers)
    }  # fmt: skip
