"""Handles log lines that mention an artifact: adds type and status to the entry, and tells Redis size and digest later.

The line's own bytes stay as they are. Its path is data: a file is looked at only inside the root.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from bridge.core.codecs.named_path import path_in
from bridge.core.model import Position, Row
from bridge.files.artifact_digest import inside, looked_at
from bridge.files.folder import FileFacts
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger import artifact_mentions
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.resp import pack

MENTIONS_AT_ONCE = 500
"""How many lines that mention artifacts are handled in one go."""

CHANGES_TOLD_AFTER = 20
"""At how many looks a mentioned artifact must have changed before Redis is told that it is changing."""


def mentions_of(shared: MappingContext, name: str, ledger: Ledger) -> Mentions | None:
    """Makes the handler of artifact mentions for the log of this name; None: the log's lines may mention none."""
    return Mentions(shared, name, ledger) if shared.mapping.message.artifact_types else None


class Mentions:
    """The artifacts that the lines of one log mention: looks at their files, and tells Redis sizes and digests."""

    def __init__(self, shared: MappingContext, name: str, ledger: Ledger) -> None:
        self.types = frozenset(kind.encode() for kind in shared.mapping.message.artifact_types)
        self._stream = shared.mapping.stream.key
        self._name = name
        self._root = os.fsencode(shared.settings.root)
        self._private = os.fsencode(shared.settings.home) + b"/"
        """The bridge's own folder, which may lie below the root: a file in it counts as outside the root."""
        self._paths = shared.settings.paths
        self._hasher = shared.hasher
        self._ledger = ledger
        self._keys = shared.keys
        self._from = Position(0, -1)
        self._asked: dict[bytes, tuple[FileFacts, int]] = {}
        self.waits = False
        """Whether Redis was not told yet of some artifact that an entry in the stream mentions."""

    def widened(self, rows: Sequence[Row], generation: int, offsets: Sequence[int]) -> list[Row]:
        """Adds `path`, `artifact_type` and `artifact_status` to the rows of messages that mention an artifact.

        Returns all the rows, and notes in the ledger the artifacts to be hashed.
        """
        found, due = [], []
        for row, offset in zip(rows, offsets, strict=True):
            path = path_in(row[3]) if row[2] in self.types else None
            if path is not None:
                whole = os.path.normpath(os.path.join(self._root, path))  # noqa: PTH118 - bytes
                real = inside(self._root, whole)
                if real is not None and (real + b"/").startswith(self._private):
                    real = None
                status, kind = looked_at(real, whole)
                row = (*row, self._paths.over(whole), kind.encode(), status.encode())
                if status == "present" and real is not None:
                    due.append((generation, offset, real))
            found.append(row)
        if due:
            artifact_mentions.add(self._ledger, self._stream, self._name, due)
        return found

    def place(self, at: Position) -> None:
        """Forgets the mentions of artifacts in lines from a position on: these lines are read again.

        The lines before it are in the stream.
        """
        artifact_mentions.settle(self._ledger, self._stream, self._name, at)

    def tell(self, connection: Connection, number: int, upto: Position) -> None:
        """Writes into the hash `bridge:{S}:artifacts` the sizes and digests of mentioned artifacts known by now.

        A file is asked for once, for all lines that mention it. A file that goes on changing is told to be changing.
        """
        ready = artifact_mentions.ready(self._ledger, self._stream, self._name, upto, self._from, MENTIONS_AT_ONCE)
        facts: list[bytes] = []
        done: list[tuple[int, int]] = []
        found: dict[bytes, bytes | None] = {}
        for generation, offset, path in ready:
            if path not in found:
                found[path] = self._found(path)
            told = found[path]
            if told is not None:
                facts += [b"%d.%d:%d" % (number, generation, offset), told]
                done.append((generation, offset))
        if facts:
            connection.calls(pack("HSET", self._keys.artifacts, *facts))
            artifact_mentions.forget(self._ledger, self._stream, self._name, done)
        self.waits = len(done) < len(ready) or len(ready) == MENTIONS_AT_ONCE
        self._from = Position(*ready[-1][:2]) if len(ready) == MENTIONS_AT_ONCE else Position(0, -1)

    def _found(self, path: bytes) -> bytes | None:
        """Returns the status of a mentioned artifact's file, with size and digest, as JSON; None: not known yet."""
        try:
            now = FileFacts.of(os.stat(path, follow_symlinks=False))
        except OSError:
            self._asked.pop(path, None)
            return b'{"status":"gone"}'
        before, changes = self._asked.get(path, (now, 0))
        changes += before != now
        self._asked[path] = (now, changes)
        found = self._hasher.ask(path, now)
        if found is None and changes < CHANGES_TOLD_AFTER:
            return None
        del self._asked[path]
        if found is None:
            return b'{"status":"changing"}'
        if isinstance(found, OSError):
            return b'{"status":"unreadable"}'
        told = {"status": "present", "size": found.facts.size, "sha256": found.sha256, "artifact_type": found.type,
                "path": os.fsdecode(self._paths.over(path))}  # fmt: skip
        return json.dumps(told).encode()
