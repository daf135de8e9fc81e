"""Reads unclaimed lines, those in a source's files that no entry names as its origin, to rebuild a lost ledger."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.core.codecs import Codec
from bridge.core.codecs.jsonl import JsonlCodec, parsed
from bridge.core.codecs.multiline import MultilineCodec
from bridge.core.model import UTF8_MARK, hex_digest
from bridge.files.generation import Generation, open_regular
from bridge.files.piece_age import Piece, in_age_order
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.quarantine import KEPT_LINE_BYTES, QuarantinedMessage


@dataclass(slots=True)
class UnclaimedLine:
    """An unclaimed line of a source: no file-born entry names it as its origin, so perhaps the mirror wrote it."""

    name: str
    generation: int
    offset: int
    content: bytes


def pieces_of(shared: MappingContext, name: str) -> tuple[list[Generation], list[Generation], Generation | None]:
    """Opens a source's rotated pieces, oldest first, files of no source, and its own file, to find unclaimed lines.

    The age of a piece is when it was written to. Where a glob names the sources, a file of another name may be a piece
    that was renamed: so every file that belongs to no source known to Redis is looked at.
    """
    root, path = shared.settings.root, shared.settings.root / name
    mine = shared.catalog.files_of(name)
    opened = [file for path in sorted(mine) if path != root / name and (file := open_regular(path)) is not None]
    pieces = [Piece(file.path.name, file.written(), lambda: None) for file in opened]
    files = [opened[file.index] for file in in_age_order(pieces)]
    others = [file for other in shared.catalog.names() if shared.catalog.many and root / other not in mine
              and (file := open_regular(root / other)) is not None]  # fmt: skip
    return files, others, open_regular(path)


def unclaimed(file: Generation, name: str, generation: int, claimed: set[int], codec: Codec) -> list[UnclaimedLine]:
    """Reads a generation's unclaimed lines, which no entry has as origin, but none that continues a claimed message."""
    lines, rest, mine = [], b"", False
    offset = len(UTF8_MARK) if file.read(len(UTF8_MARK), 0) == UTF8_MARK else 0
    while data := file.read(1 << 20, offset + len(rest)):
        *whole, rest = (rest + data).split(b"\n")
        begins = codec.begins(whole) if isinstance(codec, MultilineCodec) else [True] * len(whole)
        for line, first in zip(whole, begins, strict=True):
            mine = (offset not in claimed or _is_broken(line, codec)) if first else mine
            if line and mine:
                lines.append(UnclaimedLine(name, generation, offset, line))
            offset += len(line) + 1
    return lines


def _is_broken(line: bytes, codec: Codec) -> bool:
    """Whether a line of JSON is no record: an entry that names its place was a record within it, which a retry took."""
    return isinstance(codec, JsonlCodec) and bool(line) and isinstance(parsed(line), str)


def no_messages(lines: list[UnclaimedLine], codec: Codec, limit: int) -> list[QuarantinedMessage]:
    """Finds unclaimed lines that are no messages, or over `limit` bytes: the lost ledger had them in quarantine."""
    rows = codec.decode([line.content if len(line.content) <= limit else b"" for line in lines]).rows
    found = []
    for line, row in zip(lines, rows, strict=True):
        length, is_long = len(line.content), len(line.content) > limit
        why = f"over max_line_bytes: a line of {length} bytes, the limit is {limit}" if is_long else row
        if isinstance(why, str):
            digest = hex_digest(line.content) if is_long else ""
            where = line.name, line.generation, line.offset
            found.append(QuarantinedMessage("forward", *where, "", why, line.content[:KEPT_LINE_BYTES], length, digest))
    return found
