"""Agreement digest: hashes the lines that agree, file-born ones by source name, then Redis-born ones in stream order.

Lines that cannot be hashed as soon as they are found to agree are remembered: of several sources the places of the
lines, which are read once more; of the Redis-born lines the lines themselves, in a temporary file without a name when
they are many.
"""

from __future__ import annotations

import hashlib
import heapq
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

from bridge.core.model import EntryId, parse_id
from bridge.parity.log.items import SHIFT, ComparedFile
from bridge.parity.log.overflow_queue import HELD_BYTES, OverflowQueue


class AgreementDigest:
    """Computes the agreement digest, BLAKE2b-128, of all lines that agree on both sides.

    `files` are each source's, by name; `several`: the mirror writes more than one file.
    """

    def __init__(self, files: Mapping[str, Sequence[ComparedFile]], *, several: bool) -> None:
        self._files = files
        self._hasher = hashlib.blake2b(digest_size=16)
        self._spans: dict[str, array[int]] | None = {name: array("Q") for name in files} if len(files) > 1 else None
        self._spools: dict[str, OverflowQueue] = {}
        self._agreed: IO[bytes] | None = None
        if not several:
            self._agreed = tempfile.SpooledTemporaryFile(HELD_BYTES, prefix="bridge-parity-")  # noqa: SIM115

    def close(self) -> None:
        """Closes the agreement digest's temporary files of Redis-born lines."""
        for spool in self._spools.values():
            spool.close()
        if self._agreed is not None:
            self._agreed.close()

    def file_born(self, file: ComparedFile, lines: list[bytes], places: list[int]) -> None:
        """Adds to the agreement digest file-born lines of one source that agree, in file order."""
        if self._spans is None:
            self._hasher.update(b"\n".join(lines) + b"\n" if lines else b"")
            return
        spans = self._spans[file.source]
        for place, line in zip(places, lines, strict=True):
            if spans and spans[-1] == place:
                spans[-1] = place + len(line) + 1
            else:
                spans.extend((place, place + len(line) + 1))

    def redis_born(self, name: str, ids: list[bytes], lines: list[bytes]) -> None:
        """Adds to the agreement digest Redis-born lines of one file that the mirror writes, in stream order."""
        if self._agreed is not None:
            self._agreed.write(b"\n".join(lines) + b"\n" if lines else b"")
        else:
            self._spools.setdefault(name, OverflowQueue()).push(ids, lines)

    def hexdigest(self) -> str:
        """Returns the agreement digest of all lines that were added; to be called once."""
        for name in sorted(self._spans or ()):
            spans = (self._spans or {})[name]
            files = {file.generation: file for file in self._files[name]}
            for start, end in zip(spans[0::2], spans[1::2], strict=True):
                file = files[start >> SHIFT]
                for piece in file.section(start - file.base, end - file.base):
                    self._hasher.update(piece)
        for piece in self._in_stream_order():
            self._hasher.update(piece)
        return self._hasher.hexdigest()

    def _in_stream_order(self) -> Iterator[bytes]:
        """Yields the agreement digest's Redis-born lines with their newlines, in stream order, a piece at a time."""
        if self._agreed is not None:
            self._agreed.seek(0)
            while piece := self._agreed.read(1 << 20):
                yield piece
            return

        def pairs(spool: OverflowQueue) -> Iterator[tuple[EntryId, bytes]]:
            for ids, lines in spool.drain():
                yield from zip(map(parse_id, ids), lines, strict=True)

        for _, line in heapq.merge(*map(pairs, self._spools.values())):
            yield line + b"\n"
