"""Writes the mirror's entries into a spool folder, their target, as new files: each whole and under a free name.

The mirror writes the hidden file first (`files/atomic.py`), then the intent in the ledger; then it gives the file its
name, and notes the range. Forward recognises a mirrored message by its identity or its content, wherever a program may
have moved its file by then.
"""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path

from bridge.core.codecs import Codec
from bridge.core.config import Settings
from bridge.core.errors import TargetError
from bridge.core.failpoints import failpoint
from bridge.core.logger import logger
from bridge.core.mapping import Mapping
from bridge.core.model import FIELDS, ZERO_ID, EntryId, digest, format_id, hex_digest
from bridge.files.atomic import AtomicFolder, another
from bridge.files.folder import FileFacts, MessageFolder
from bridge.kinds.spool.identity import keys_of, read_document
from bridge.kinds.target import PendingWrite, WrittenSpan
from bridge.kinds.translation import EntryTranslator, MirrorBatch
from bridge.ledger import spool_messages
from bridge.ledger.ranges import Intent, intents_of, rename_intent
from bridge.ledger.store import Ledger
from bridge.streams.reader import Entry

LONGEST_NAME = 220
"""Most bytes of a new spool file's name: 255 are allowed, and where a name is taken the mirror adds the entry's ID."""

LONGEST_NAME_PART = 80
"""Most characters of a field's value that go into the name of the mirror's new spool file."""


class NewFileTargets:
    """Holds what all new-file targets of one mirror into a spool share: mapping, settings and open folders."""

    def __init__(self, mapping: Mapping, settings: Settings) -> None:
        self.mapping = mapping
        self.settings = settings
        self.prefix = hex_digest(mapping.stream.key.encode())[:8] + "-"
        """How the marks of this mirror's hidden files begin: another mapping may put files into the same folder."""
        self._places: dict[str, AtomicFolder] = {}
        self._tidied: set[str] = set()

    def place(self, folder: str) -> AtomicFolder:
        """Returns a spool folder that the mirror puts new files into, opened at the first call. Raises TargetError."""
        if folder not in self._places:
            self._places[folder] = AtomicFolder(self.settings.root, folder)
        return self._places[folder]

    def tidy(self, folder: str, ledger: Ledger) -> None:
        """Removes from a spool folder the hidden files that an earlier mirror process left and no intent needs.

        Done once, before the mirror's first new file: later there are hidden files whose intents are not noted yet.
        Raises TargetError.
        """
        if folder in self._tidied:
            return
        place, intents = self.place(folder), intents_of(ledger, self.mapping.stream.key)
        wanted = {f"{self.prefix}{intent.generation:x}" for intent in intents}
        for mark in place.marks():
            if mark.startswith(self.prefix) and mark not in wanted:
                place.forget(mark)
        self._tidied.add(folder)

    def lost(self, folder: str) -> None:
        """Closes a spool folder of the mirror whose path may lead to another folder by now, so that it is reopened."""
        place = self._places.pop(folder, None)
        if place is not None:
            place.close()

    def close(self) -> None:
        """Closes all spool folders that the mirror put new files into; the mirror opens them again when needed."""
        for folder in list(self._places):
            self.lost(folder)


class NewFileTarget:
    """The mirror's target for one entry of a spool: one new file in a folder."""

    def __init__(self, common: NewFileTargets, name: str, content: bytes, entry_id: EntryId, number: int = 0) -> None:
        self._common = common
        self._folder, _, self._name = name.rpartition("/")
        self._content = content
        self._number = number or number_of(entry_id, content)
        self._mark = common.prefix + f"{self._number:x}"
        self._id = format_id(entry_id).decode() if entry_id != ZERO_ID else f"{self._number:x}"
        self.put_out = 0
        self._facts: FileFacts | None = None
        self._tried: AtomicFolder | None = None
        """The folder where the hidden file was to get its name: once it is gone there, the new file has the name."""

    @property
    def label(self) -> str:
        """The spool folder of the mirror's new file, by which the mirror announces in Redis how far it came.

        It is not the file: the announcements must not grow with every file.
        """
        return self._folder or "."

    @property
    def _path(self) -> str:
        return f"{self._folder}/{self._name}" if self._folder else self._name

    def take(self, ledger: Ledger, now: float, *, torn: bool = False) -> str:
        """Writes an entry's new spool file under a hidden name, before the mirror notes the intent in the ledger.

        From then on the hidden file's absence says that the new file has its name. Returns an empty string: the mirror
        need not wait. Raises TargetError.
        """
        self._common.tidy(self._folder, ledger)
        self._hide()
        return ""

    def _hide(self) -> AtomicFolder:
        """Writes an entry's new spool file under a hidden name, unless it is there already; returns the open folder."""
        place = self._common.place(self._folder)
        if not place.still_there():
            self._common.lost(self._folder)
            place = self._common.place(self._folder)
        if self._facts is None or not place.waits(self._mark):
            failpoint("mirror.hidden.before")
            self._facts = place.write(self._mark, self._content)
            failpoint("mirror.hidden.after")
        return place

    def place(self) -> tuple[int, int]:
        """Returns the number that tells the mirror's new spool file from all others of its name, and the offset 0."""
        return self._number, 0

    def put(self, write: PendingWrite, ledger: Ledger, now: float) -> str:
        """Gives the mirror's hidden spool file its name, or a similar one that is free, unless it has one already.

        Returns an empty string: the mirror need not wait. Raises TargetError.
        """
        if write.done:
            return ""
        if self._tried is None or self._tried.closed or self._tried.waits(self._mark):
            place = self._hide()
            failpoint("mirror.write.before")
            wished, count = self._name, 1
            self._tried = place
            while not self._named(place):
                name = another(wished, self._id if count == 1 else f"{self._id}-{count}")
                count += 1
                logger.debug("%s is taken: the mirror's file is %s", self._name, name)
                path = f"{self._folder}/{name}" if self._folder else name
                rename_intent(ledger, write.intent, path)
                self._name, write.name = name, path
        failpoint("mirror.write.after")
        write.pieces = [WrittenSpan(0, len(write.content), self._number, 0)]
        return ""

    def _named(self, place: AtomicFolder) -> bool:
        """Gives the mirror's new spool file its name, and counts the file's bytes then; False when the name is taken.

        Raises TargetError, also after the file got its name: where the folder cannot be synced.
        """
        try:
            named = place.put(self._mark, self._name)
        except TargetError:
            self.put_out += 0 if place.waits(self._mark) else len(self._content)
            raise
        self.put_out += len(self._content) if named else 0
        return named

    def resolve(self, intent: Intent, codec: Codec) -> tuple[PendingWrite, str]:
        """Finds out by the hidden file whether an earlier mirror process gave an intent's new spool file its name.

        Returns the write, and in words what became of it.
        """
        write = PendingWrite(intent.name, intent.content, intent.entries, intent.id, to=self)
        place = AtomicFolder(self._common.settings.root, self._folder)
        try:
            if place.waits(self._mark):
                self._facts = place.facts_of_hidden(self._mark)
                return write, "not put in place before the last stop, and is now"
            # A program may have taken the file by now: its time of writing does not matter then.
            self._facts = place.facts(self._name) or FileFacts(len(intent.content), 0, 0, 0)
        finally:
            place.close()
        write.pieces = [WrittenSpan(0, len(intent.content), self._number, 0)]
        return write, "put in place before the last stop"

    def remember(self, ledger: Ledger) -> None:
        """Notes the message of the mirror's new spool file in the ledger, in the transaction that notes the range.

        So forward recognises the message, whatever its file is called by then.
        """
        if self._facts is None:
            return
        raw, mapping = os.fsencode(self._path), self._common.mapping
        key, content = keys_of(read_document(mapping, raw, self._content), self._content, self._facts)
        mark = spool_messages.mirrored_as(self._path, self._number)
        spool_messages.mirrored(ledger, mapping.stream.key, key, content, raw, self._facts, mark)

    def release(self) -> None:
        """Does nothing: for a new spool file the mirror holds no lock."""

    def close(self) -> None:
        """Does nothing: a new spool file is not kept open, and its folder stays open for the mirror's next file."""


def number_of(entry_id: EntryId, content: bytes) -> int:
    """Computes the number that tells the mirror's new spool file from all that ever had its name, for the hidden name.

    The number is made of the entry's ID and is unique to that entry; or of the content, where Redis no longer has the
    entry (0-0).
    """
    if entry_id == ZERO_ID:
        return int.from_bytes(digest(content)[:7], "big") | 1
    return ((entry_id[0] << 20) + (entry_id[1] & 0xFFFFF)) & ((1 << 62) - 1)


class DocumentTranslator(EntryTranslator):
    """Translates each Redis-born entry of a spool into a new file with one document, for the mirror."""

    ending = b""

    @cached_property
    def _folder(self) -> MessageFolder:
        return MessageFolder(Path("/"), self.mapping.files, self.mapping.source.exclude)

    def translate(
        self, found: list[Entry], last: EntryId, already: set[EntryId], cursor: EntryId, epoch: int
    ) -> MirrorBatch:
        """Makes for the mirror a pending write of one new spool file for each Redis-born entry in `found`.

        The entries were read after `cursor` and up to `last`. Passes over file-born entries and those in `already`,
        which have their file. Sets aside an entry that cannot be a file, or ends the batch before it, where the mapping
        is to stop.
        """
        taken = MirrorBatch(last, epoch=epoch)
        for i, entry in enumerate(found):
            if entry.id in already or self.file_born(entry):
                continue
            name, content, reason = self.line(entry)
            if not reason:
                taken.writes.append(PendingWrite(name, content, [(entry.id, len(content))]))
            elif not self.set_aside(taken, entry, reason):
                taken.last = found[i - 1].id if i else cursor
                break
        return taken

    def encoded(self, path: str, values: dict[bytes, bytes], entry_id: EntryId) -> tuple[str, bytes | str]:
        """Returns the path of the new spool file for an entry, and the file's content, or as text why it has none."""
        told = {name.decode(): safe(values[name]) for name in FIELDS[:3]} | {"id": format_id(entry_id).decode()}
        name = re.sub(r"\{(\w+)\}", lambda match: told[match[1]], self.section.name).lstrip(".") or told["id"]
        if len(os.fsencode(name)) > LONGEST_NAME:
            said = f"its file's name would have {len(os.fsencode(name))} bytes, the limit is {LONGEST_NAME}"
            return path, f"{said}: shorten mirror.name"
        path = str(Path(path) / name)
        if not self._folder.has(os.fsencode(path)):
            return path, f"a file of the name {name} would be none of source.path's: see mirror.name and source.exclude"
        content = self.mapping.document(path).encode(tuple(values[name] for name in FIELDS))
        return path, content or "an empty file is no message"


def safe(value: bytes) -> str:
    """Makes a part of a new spool file's name from a field's value, with hyphens for all but plain letters. Pure."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", value.decode("utf-8", "replace"))[:LONGEST_NAME_PART]
