"""Implements forward's source for artifacts: announces each new or replaced file of a folder once, with its digest.

The due messages, the batches and the recovery after a loss are a spool's; the files themselves stay where they are.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable

from bridge.core.codecs.artifact import ArtifactCodec, announcement
from bridge.core.codecs.document import DocumentMessage, iso_time
from bridge.core.errors import SourceError
from bridge.core.mapping import Mapping
from bridge.core.model import shown_name
from bridge.core.path_rules import Paths
from bridge.files.artifact_digest import INLINE, DigestThread, KnownDigest, hashed
from bridge.files.folder import BUSY, FoundFile, MessageFolder, ReadFile
from bridge.kinds.spool.scanner import FolderScanner, WaitingFile
from bridge.kinds.spool.source import SpoolSource
from bridge.ledger import spool_messages
from bridge.ledger.spool_messages import DueMessage
from bridge.ledger.store import Ledger
from bridge.streams.keys import Keys

HASH_PAUSE = 0.05
"""Seconds until forward asks again for the digest of an artifact's file that is being hashed."""


class ArtifactIntake(FolderScanner):
    """Takes the files of a folder of artifacts into the ledger as due, when they are complete and hashed."""

    def __init__(
        self, mapping: Mapping, folder: MessageFolder, ledger: Ledger, clock: Callable[[], float],
        hasher: DigestThread,
    ) -> None:  # fmt: skip
        super().__init__(mapping, folder, ledger, clock, lambda: None)
        self._hasher = hasher

    def _content(self, found: FoundFile, since: float, age: float) -> ReadFile | None:
        """Returns type and digest of an artifact's file as JSON, with its facts; None while it is written or hashed.

        None also when the file is gone. Raises SourceError: a link leads to the file, or it cannot be read.
        """
        now = self._clock()
        real = os.path.realpath(os.path.join(self.folder.root, found.name))  # noqa: PTH118 - bytes
        if real != os.path.realpath(self.folder.root) + b"/" + found.name:
            said, hint = "a link leads to it, so it may lie elsewhere", "name the folder itself, below the root"
            raise SourceError(said, where=shown_name(found.name), hint=hint)
        if age < BUSY and self.folder.busy(found.name):
            self.wait(found, since, now + max(self._settle, age / 10))
            return None
        try:
            known = hashed(real) if found.facts.size <= INLINE else self._hasher.ask(real, found.facts)
        except OSError as error:
            known = error
        if isinstance(known, OSError) and known.errno != errno.ELOOP:  # that is a link by now: no file of ours
            raise SourceError(f"cannot be read: {known.strerror}", where=shown_name(found.name),
                              hint="give the bridge's user the right to read it")  # fmt: skip
        if not isinstance(known, KnownDigest):
            if self.folder.find(found.name) is None:
                self.notices.append(f"{shown_name(found.name)} was gone before it could be announced")
                self.waiting.pop(found.name, None)
            else:
                self.wait(found, since, now + HASH_PAUSE)
            return None
        return ReadFile(known.facts, _facts_of(known), busy=False)

    def _take_in(self, name: bytes, taken: ReadFile, barred: set[bytes], *, keep: bool) -> int:
        """Notes an artifact's file in the ledger as due, unless it holds what was announced last; inside a transaction.

        Returns 0: none of the file's bytes are kept.
        """
        sha256 = json.loads(taken.raw)["sha256"].encode()
        self.waiting.pop(name, None)
        last, now = spool_messages.last_of(self._ledger, self._stream, name), int(self._clock() * 1000)
        key = announcement(name, iso_time(taken.facts.written), sha256)
        # Nor a file that was moved away and back: two equal announcements would be one message, sent twice.
        if last is not None and last.alike == sha256 and (not last.removed or last.key == key):
            spool_messages.touch(self._ledger, self._stream, name, taken.facts)
            return 0
        standing = spool_messages.standing(self._ledger, self._stream, key)
        if standing == "sent":  # of an older file, put back into its place
            self.waiting[name] = WaitingFile(taken.facts, self._clock(), self._clock() + HASH_PAUSE)
            return 0
        if standing == "carried" and last is None:  # announced, and its file was not known to hold it
            spool_messages.note_file(self._ledger, self._stream, name, taken.facts, key)
            return 0
        # A file that replaces another is announced after it, whatever its own time is.
        at = now if last is not None else min(now, taken.facts.written // 1_000_000)
        spool_messages.add_due(self._ledger, self._stream, DueMessage(key, sha256, name, taken.facts, at, taken.raw))
        return 0


class ArtifactSource(SpoolSource):
    """Forward's source for one folder of artifacts: each message announces a file.

    `paths` are how each side names the same file.
    """

    def __init__(
        self, mapping: Mapping, keys: Keys, scanner: ArtifactIntake, ledger: Ledger, clock: Callable[[], float],
        paths: Paths,
    ) -> None:  # fmt: skip
        super().__init__(mapping, keys, scanner, ledger, clock)
        self._paths = paths

    def _message(self, due: DueMessage) -> DocumentMessage:
        codec = self._mapping.codec(os.fsdecode(due.name))
        if not isinstance(codec, ArtifactCodec):
            raise AssertionError("a mapping of artifacts has its codec")
        facts = json.loads(due.raw or b"{}")
        path = self._paths.over(os.path.join(self._folder.root, due.name))  # noqa: PTH118 - bytes
        row = codec.row(
            path, iso_time(due.facts.written), facts["type"].encode(), due.facts.size, facts["sha256"].encode()
        )
        return DocumentMessage(row, due.time)


def _facts_of(known: KnownDigest) -> bytes:
    """Packs type and digest of an artifact's file into JSON, as the ledger keeps them until the file is announced."""
    return json.dumps({"type": known.type, "sha256": known.sha256}).encode()
