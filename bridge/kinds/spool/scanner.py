"""Scans a spool folder and takes its complete files into the ledger as due messages: each message once.

A file is complete when it has not changed for the settling time, and no program has it open for writing.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from bridge.core.codecs.document import DocumentMessage
from bridge.core.errors import RejectStop, SourceError
from bridge.core.failpoints import failpoint
from bridge.core.mapping import Mapping
from bridge.core.model import digest, hex_digest, shown, shown_name
from bridge.files.folder import BUSY, FileFacts, FoundFile, MessageFolder, ReadFile
from bridge.kinds.rejects import RejectKinds
from bridge.kinds.source_counts import SourceCounts
from bridge.kinds.spool.identity import identity_of, keys_of, read_document
from bridge.ledger import spool_messages
from bridge.ledger.quarantine import KEPT_LINE_BYTES, QuarantinedMessage, add_quarantined, rename_aside
from bridge.ledger.ranges import contents_of_intents
from bridge.ledger.spool_messages import DueMessage
from bridge.ledger.spool_recovery import forget_mirrored, is_among, unread
from bridge.ledger.store import Ledger

PARTLY = 10.0
"""Seconds in which a spool file whose JSON breaks off must be completed, before the scanner sets it aside."""

KEEP_BYTES, KEPT_SHARE = 1 << 26, 2
"""Bytes of due messages that the ledger keeps on disk, and more while that is at most 1/KEPT_SHARE of the disk's room.

Forward reads the files of further messages again in their turn; such a message is lost if its file is taken before.
"""

ON_ITS_WAY = 0.1
"""Seconds until the scanner looks again at a spool file whose message is being sent."""

MOST_HASHED = 1 << 26
"""Most bytes of a spool file that is too large for a message, and that the scanner still hashes for quarantine."""

COUNTED = 5.0
"""Seconds between two counts of the bytes that the ledger keeps of due messages, once they are many."""

UNREADABLE = 2.0
"""Seconds until the scanner tries again to read a spool file that could not be read."""

SCAN_SHARE = 20.0
"""Scans of a whole spool folder take at most about one part in so many of forward's time."""

AT_LEAST = 60.0
"""Seconds after which a spool folder is scanned although its times say that nothing happened."""


@dataclass(slots=True)
class WaitingFile:
    """A spool file that is not complete yet: its facts at the last look, since when it has these, and the next look."""

    facts: FileFacts
    since: float
    again: float


class FolderScanner:
    """Scans one spool folder, and takes its complete files into the ledger as due messages, each message once.

    `compare` makes the bridge compare files and stream again.
    """

    def __init__(
        self, mapping: Mapping, folder: MessageFolder, ledger: Ledger, clock: Callable[[], float],
        compare: Callable[[], None],
    ) -> None:  # fmt: skip
        self.waiting: dict[bytes, WaitingFile] = {}
        """Files of the spool folder that are to be looked at again, such as those not complete yet, by name."""
        self.counts = SourceCounts()
        self.notices: list[str] = []
        """Messages of the scanner for the log."""
        self.unreadable: dict[bytes, SourceError] = {}
        """Files of the spool folder that could not be read, by name, each with its error."""
        self.stop: tuple[FoundFile, RejectStop] | None = None
        """The spool file that stops the mapping (`on_reject = "stop"`) until it is changed or gone, and the error."""
        self._mapping = mapping
        self.folder = folder
        self._ledger = ledger
        self._clock = clock
        self._stream = mapping.stream.key
        self._settle = mapping.source.settle_ms / 1000
        self._limit = mapping.format.max_line_bytes
        self._compare = compare
        self._still: dict[bytes, bool] = {}
        """Whether a message still has an unchanged file in the spool folder, by key: answers found so far."""
        self._kinds = RejectKinds(mapping.source.path, self.notices.append)
        self._scanned_at, self._took = -inf, 0.0
        """When the last scan of the spool folder ended, by a steady clock, and how many seconds it took."""
        self._lost, self._told = False, set[tuple[bytes, bytes]]()
        self._kept, self._count_at = -1, 0.0
        self._room = KEEP_BYTES
        self.tight: SourceError | None = None
        """The error that the ledger soon has no room for the bytes of more due messages; None: it has room."""

    def forget(self) -> None:
        """Makes the scanner look at all spool files anew, since Redis lost entries and they are to be sent again."""
        self._lost, self._scanned_at, self._took = True, -inf, 0.0

    @property
    def soon(self) -> bool:
        """Whether the scanner will look again at a waiting spool file within the settling time."""
        moment = self._clock() + self._settle
        return self.stop is None and any(file.again <= moment for file in self.waiting.values())

    def look(self, paths: set[str] | None) -> bool:
        """Takes in the spool files at `paths`; with None scans the whole folder, when its times say that it changed.

        False when no path is one of the folder's. Raises SourceError, LedgerError: then the next look is a whole scan.
        """
        try:
            return self._look(paths)
        except BaseException:
            self._scanned_at, self._took = -inf, 0.0
            raise

    def _look(self, paths: set[str] | None) -> bool:
        if paths is not None:
            names = {name for path in paths if (name := self.folder.below(path)) and self.folder.has(name)}
            removed = names & self.folder.removed
            self.folder.removed.difference_update(removed)  # before they are looked for: another may go meanwhile
            try:
                found = {name: self.folder.find(name) for name in names}
                lost = [name for name, file in found.items() if file is None or name in removed]
                if lost:
                    with self._ledger.transaction():
                        for name in lost:
                            spool_messages.gone(self._ledger, self._stream, name)
            except BaseException:
                self.folder.removed.update(removed)
                raise
            for name in names:
                self.waiting.pop(name, None)
            for name in lost:
                self.unreadable.pop(name, None)
            self._examine([file for file in found.values() if file is not None])
            return bool(names)
        now = time.monotonic()
        if now >= self._scanned_at + self._took * SCAN_SHARE and (
            now >= self._scanned_at + AT_LEAST or self.folder.changed()
        ):
            worked = 0.0
            for some in self.folder.scan():
                began = time.monotonic()
                if self._examine([file for file in some if file.name not in self.waiting]):
                    worked += time.monotonic() - began  # writing to the ledger, with the wait for it, is no scanning
            self._scanned_at = time.monotonic()
            self._took = self._scanned_at - now - worked
        self._look_at_waiting()  # also here: while Redis is away nobody asks for source batches
        return True

    def _examine(self, found: list[FoundFile]) -> bool:
        """Takes the complete spool files that were not read before into the ledger; False: there is none."""
        if self._lost:
            forget_mirrored(self._ledger, self._stream)
            self._lost = False
        if not found:
            return False
        known = spool_messages.files_known(self._ledger, self._stream, [file.name for file in found])
        fresh = [file for file in found if file.name not in known or known[file.name][0] != file.facts]
        for name in {file.name for file in found}.difference(file.name for file in fresh):  # perhaps the mirror's
            self.waiting.pop(name, None)
            self.unreadable.pop(name, None)
        complete, doubtful = [], unread(self._ledger, self._stream) if fresh else set[bytes]()
        for file in fresh:
            try:
                taken = self._taken(file)
            except SourceError as error:  # the others go on
                self.unreadable[file.name] = error
                self.wait(file, self._clock(), self._clock() + UNREADABLE)
                continue
            self.unreadable.pop(file.name, None)
            if taken is not None and is_among(file.name, doubtful):  # is its message in the stream?
                self.wait(file, self._clock(), self._clock() + UNREADABLE)
                self._compare()
            elif taken is not None:
                complete.append((file, taken))
        if not complete:
            return False
        barred = self._barred()
        self._still.clear()
        kept = self._kept_bytes()
        failpoint("spool.due.before")
        try:
            with self._ledger.transaction():
                for file, taken in complete:
                    if self.stop is not None:
                        self.wait(file, self._clock(), self._clock() + UNREADABLE)
                        continue
                    kept += self._take_in(file.name, taken, barred, keep=kept < self._room)
        except BaseException:  # none was taken in, and the next whole scan may be far off
            for file, _ in complete:
                self.wait(file, self._clock(), self._clock())
            raise
        self._kept = kept
        failpoint("spool.due.after")
        return True

    def _kept_bytes(self) -> int:
        """Returns how many bytes of due spool messages the ledger keeps; counts seldom, as there may be many."""
        if self._kept < 0 or (self._kept >= KEEP_BYTES and time.monotonic() >= self._count_at):
            self._kept = spool_messages.kept_bytes(self._ledger, self._stream)
            self._measure_room()
            self._count_at = time.monotonic() + COUNTED
        return self._kept

    def _measure_room(self) -> None:
        """Sets how many bytes of due spool messages the ledger may keep, and warns while there is time to make room."""
        free = shutil.disk_usage(self._ledger.path.parent).free
        self._room = max(KEEP_BYTES, (free + self._kept) // KEPT_SHARE)
        tight = self._kept > self._room * 0.8
        if tight and self.tight is None:
            said = (
                f"{self._kept >> 20} MiB of messages wait for Redis on disk, and there is room for {self._room >> 20}"
            )
            hint = "make room, or see to Redis: a message of whose file no more can be kept is lost if that is taken"
            self.tight = SourceError(said, where=str(self._ledger.path.parent), hint=hint)
            self.notices.append(f"{self._mapping.source.path}: {said}: {hint}")
        elif not tight:
            self.tight = None

    def _taken(self, file: FoundFile) -> ReadFile | None:
        """Reads a scanned spool file if it is complete by its times; else makes the file wait and returns None."""
        now, before = self._clock(), self.waiting.get(file.name)
        since = before.since if before is not None and before.facts == file.facts else now
        age = file.facts.age(now, since)
        if age < self._settle:
            self.wait(file, since, now + self._settle - age)
            return None
        return self._content(file, since, age)

    def _content(self, file: FoundFile, since: float, age: float) -> ReadFile | None:
        """Reads a spool file unchanged for `age` seconds; returns None, and looks later, if it is still written to."""
        now, taken = self._clock(), self.folder.read(file.name, self._limit + 1)
        if taken is None or taken.facts != file.facts:
            self.wait(file, now, now + self._settle)
            return None
        if taken.busy and age < BUSY:
            self.wait(file, since, now + max(self._settle, age / 10))
            return None
        return taken

    def wait(self, file: FoundFile, since: float, again: float) -> None:
        """Makes the scanner look at a spool file again at `again`; it last changed at `since`. Seconds since 1970."""
        self.waiting[file.name] = WaitingFile(file.facts, since, again)

    def _barred(self) -> set[bytes]:
        """Returns the digested identities of messages that the mirror is about to put into the spool folder."""
        return {
            identity_of(read_document(self._mapping, os.fsencode(name), content), content)
            for name, content in contents_of_intents(self._ledger, self._stream)
        }

    def _take_in(self, name: bytes, taken: ReadFile, barred: set[bytes], *, keep: bool) -> int:
        """Notes a complete spool file as due or known, sets it aside, or makes it wait; inside a ledger transaction.

        Returns how many bytes of the message the ledger keeps.
        """
        now, facts = self._clock(), taken.facts
        if facts.size > self._limit:
            reason = f"over max_line_bytes: a file of {facts.size} bytes, the limit is {self._limit}"
            self._set_aside(name, taken, reason)
            return 0
        message = self._mapping.document(os.fsdecode(name), facts.written).read(taken.raw)
        if isinstance(message.row, str):
            if message.partly and (taken.busy or now - facts.written / 1e9 < PARTLY):
                self.wait(FoundFile(name, facts), now, now + max(self._settle, 0.1))
            else:
                self._set_aside(name, taken, message.row)
            return 0
        if barred and identity_of(message, taken.raw) in barred:
            self.wait(FoundFile(name, facts), now, now + 0.05)
            return 0
        self.waiting.pop(name, None)
        if not taken.raw:
            return 0  # an empty file: its program has not written it yet
        key, content = self._key(message, name, taken)
        standing = spool_messages.standing(self._ledger, self._stream, key)
        if standing == "due" and message.identity is not None and self._comes_after(name, facts, key):
            self._tell_twice(name, key)
            self.wait(FoundFile(name, facts), now, now + ON_ITS_WAY)
            return 0
        if standing == "sent":
            self.wait(FoundFile(name, facts), now, now + ON_ITS_WAY)
            return 0
        if standing and message.identity is not None:
            self._tell_twice(name, key)
        if standing == "carried":
            spool_messages.drop_due(self._ledger, self._stream, key)
            spool_messages.note_file(self._ledger, self._stream, name, facts, key)
            if content:
                spool_messages.touched(self._ledger, self._stream, key, facts)
            return 0
        raw = taken.raw if keep else None
        spool_messages.add_due(self._ledger, self._stream, DueMessage(key, content, name, facts, message.time, raw))
        return len(raw or b"")

    def _key(self, message: DocumentMessage, name: bytes, taken: ReadFile) -> tuple[bytes, bytes]:
        """Returns a scanned message's key, and its content's digest where it has no identity of its own, else nothing.

        A spool file without identity that was touched, moved or put back holds the same message as before.
        """
        key, content = keys_of(message, taken.raw, taken.facts)
        if not content:
            return key, content
        before = spool_messages.last_of(self._ledger, self._stream, name)
        if before is not None and before.alike == content and before.inode == taken.facts.inode:
            return before.key, content
        for known in spool_messages.alike(self._ledger, self._stream, content, taken.facts.written):
            if not self._lies_still(known):
                self._still[known] = True  # the file in hand holds the message
                return known, content
            if known == key:  # another file of the same content, written in the same moment
                key = digest(key, b"%d" % taken.facts.inode)
        return key, content

    def _lies_still(self, key: bytes) -> bool:
        """Whether a spool file known to hold this message is still in the folder unchanged, and so was not moved."""
        if key not in self._still:
            known = spool_messages.names_of(self._ledger, self._stream, key)
            self._still[key] = any(self._is_there(name, facts) for name, facts in known)
        return self._still[key]

    def _is_there(self, name: bytes, facts: FileFacts) -> bool:
        found = self.folder.find(name)
        return found is not None and found.facts == facts

    def _comes_after(self, name: bytes, facts: FileFacts, key: bytes) -> bool:
        """Whether the spool has another file with this message, written before or, if together, named before."""
        return any(
            other != name and (known.written, other) < (facts.written, name) and self._is_there(other, known)
            for other, known in spool_messages.names_of(self._ledger, self._stream, key)
        )

    def _tell_twice(self, name: bytes, key: bytes) -> None:
        """Warns, once, that two scanned files of a spool have the same identity and are taken for one message."""
        for other, facts in spool_messages.names_of(self._ledger, self._stream, key):
            if other != name and self._is_there(other, facts):
                if (name, other) not in self._told:
                    self._told.add((name, other))
                    both = f"{shown_name(name)} has the identity of {shown_name(other)}"
                    self.notices.append(f"{both}, which is there too: they are taken for one message")
                return

    def _set_aside(self, name: bytes, taken: ReadFile, reason: str) -> None:
        """Puts a spool file that is no message into quarantine, in a ledger transaction, or stops the mapping."""
        raw, said = taken.raw, shown_name(name)
        size = taken.facts.size
        whole = ""
        if size > KEPT_LINE_BYTES:
            whole = hex_digest(raw) if size == len(raw) else self.folder.digest(name) if size <= MOST_HASHED else ""
        rejected = QuarantinedMessage("forward", said, 0, 0, "", reason, raw[:KEPT_LINE_BYTES], size, whole)
        if self._mapping.policy.on_reject == "stop":
            hint = 'mend the file or the mapping, or set policy.on_reject = "quarantine"'
            self.stop = FoundFile(name, taken.facts), RejectStop(f"{reason}: {shown(raw, 80)}", where=said, hint=hint)
            return
        self.waiting.pop(name, None)
        spool_messages.note_file(self._ledger, self._stream, name, taken.facts, b"")
        if rename_aside(self._ledger, self._stream, rejected, lambda other: not self.folder.exists(other)):
            return
        add_quarantined(self._ledger, self._stream, [rejected], self._clock())
        self.counts.rejected += 1
        self._kinds.tell([rejected])

    def look_again(self) -> None:
        """Looks again at spool files that waited long enough; after a loss of entries scans all, to send them in order.

        Raises RejectStop: a file stops the mapping.
        """
        if self._lost:
            self.look(None)
        if self.stop is not None:
            if self.folder.find(self.stop[0].name) == self.stop[0]:
                raise self.stop[1]
            self.stop, self._scanned_at, self._took = None, -inf, 0.0
            self.look(None)
        self._look_at_waiting()
        if self.stop is not None:
            raise self.stop[1]

    def _look_at_waiting(self) -> None:
        now = self._clock()
        names = [name for name, file in self.waiting.items() if file.again <= now]
        for part in spool_messages.in_parts(names):
            found = [(name, self.folder.find(name)) for name in part]
            for name, file in found:
                if file is None:
                    self.waiting.pop(name, None)
                    self.unreadable.pop(name, None)
            self._examine([file for _, file in found if file is not None])
