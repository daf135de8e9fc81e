"""The mirror puts entries into a folder as new files: each whole, under a name that was free, and known as its own.

The hidden file comes first (`files/place.py`), then the intent in the ledger, then the file's name, then the range.
Forward knows a mirrored message by what it is known by at all, wherever a program may have moved its file by then.
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
"""Most bytes of a new file's name: 255 are allowed, and where a name is taken the mirror adds the entry's ID."""

LONGEST_NAME_PART = 80
"""Most characters of a field's value that go into the name of the mirror's new file."""


class NewFileTargets:
    """What the new files that one mirror puts into folders have in common: mapping, settings and open folders."""

    def __init__(self, mapping: Mapping, settings: Settings) -> None:
        self.mapping = mapping
        self.settings = settings
        self.prefix = hex_digest(mapping.stream.key.encode())[:8] + "-"
        """How the marks of this mirror's hidden files begin: another mapping may put files into the same folder."""
        self._places: dict[str, AtomicFolder] = {}
        self._tidied: set[str] = set()

    def place(self, folder: str) -> AtomicFolder:
        """Opens a folder that the mirror puts new files into, or returns it open. Raises TargetError."""
        if folder not in self._places:
            self._places[folder] = AtomicFolder(self.settings.root, folder)
        return self._places[folder]

    def tidy(self, folder: str, ledger: Ledger) -> None:
        """Removes hidden files that an earlier process left in a folder and no intent needs. Raises TargetError.

        Once, before the mirror's first new file: from then on there are some whose intents are not noted yet.
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
        """Closes a folder of the mirror's whose path may name another one by now, so that it is opened again."""
        place = self._places.pop(folder, None)
        if place is not None:
            place.close()

    def close(self) -> None:
        """The mirror closes all folders that it put new files into; it opens them again when it needs them."""
        for folder in list(self._places):
            self.lost(folder)


class NewFileTarget:
    """One new file that the mirror puts into a folder for one entry."""

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
        """The folder where the new file was about to get its name: once its hidden file is gone there, it has it."""

    @property
    def label(self) -> str:
        """The folder of the mirror's new file, by which the mirror announces how far it came.

        What is announced must not grow with every file.
        """
        return self._folder or "."

    @property
    def _path(self) -> str:
        return f"{self._folder}/{self._name}" if self._folder else self._name

    def take(self, ledger: Ledger, now: float, *, torn: bool = False) -> str:
        """The mirror writes an entry's new file under a hidden name, before its intent is noted in the ledger.

        From then on the hidden file's absence says that the new file has its name. Returns an empty string: no waiting.
        """
        self._common.tidy(self._folder, ledger)
        self._hide()
        return ""

    def _hide(self) -> AtomicFolder:
        """The mirror writes an entry's new file under a hidden name, unless it waits there; returns the folder."""
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
        """Returns the number that tells the mirror's new file from all that ever had its name, and 0: its beginning."""
        return self._number, 0

    def put(self, write: PendingWrite, ledger: Ledger, now: float) -> str:
        """Gives the mirror's new file its name, if it has none, or one like it that is free. Raises TargetError.

        Returns an empty string: no waiting.
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
        """Gives the mirror's new file its name, and counts its bytes then; False when the name is taken.

        Raises TargetError, also behind the name: where the folder cannot be synced.
        """
        try:
            named = place.put(self._mark, self._name)
        except TargetError:
            self.put_out += 0 if place.waits(self._mark) else len(self._content)
            raise
        self.put_out += len(self._content) if named else 0
        return named

    def resolve(self, intent: Intent, codec: Codec) -> tuple[PendingWrite, str]:
        """Finds out by the hidden file whether an earlier process put an intent's new file in its place.

        Returns the write, and what became of it in words.
        """
        write = PendingWrite(intent.name, intent.content, intent.entries, intent.id, to=self)
        place = AtomicFolder(self._common.settings.root, self._folder)
        try:
            if place.waits(self._mark):
                self._facts = place.facts_of_hidden(self._mark)
                return write, "not put in place before the last stop, and is now"
            # Its file may be taken by now: what its time of writing was is of no matter then.
            self._facts = place.facts(self._name) or FileFacts(len(intent.content), 0, 0, 0)
        finally:
            place.close()
        write.pieces = [WrittenSpan(0, len(intent.content), self._number, 0)]
        return write, "put in place before the last stop"

    def remember(self, ledger: Ledger) -> None:
        """Notes the message of the mirror's new file in the ledger, in the transaction with the range.

        So forward knows the message, whatever its file is called.
        """
        if self._facts is None:
            return
        raw, mapping = os.fsencode(self._path), self._common.mapping
        key, content = keys_of(read_document(mapping, raw, self._content), self._content, self._facts)
        mark = spool_messages.mirrored_as(self._path, self._number)
        spool_messages.mirrored(ledger, mapping.stream.key, key, content, raw, self._facts, mark)

    def release(self) -> None:
        """Does nothing: for a new file the mirror holds no lock."""

    def close(self) -> None:
        """Does nothing: of a new file nothing is open, and its folder stays open for the mirror's next one."""


def number_of(entry_id: EntryId, content: bytes) -> int:
    """Returns a number that tells the mirror's new file from all that ever had its name; its hidden file bears it.

    The number is made of the entry's ID and is that entry's alone; of the content, where Redis has the entry no more.
    """
    if entry_id == ZERO_ID:
        return int.from_bytes(digest(content)[:7], "big") | 1
    return ((entry_id[0] << 20) + (entry_id[1] & 0xFFFFF)) & ((1 << 62) - 1)


class DocumentTranslator(EntryTranslator):
    """Makes a file of its own of each Redis-born entry, for a mirror that puts messages into a folder."""

    ending = b""

    @cached_property
    def _folder(self) -> MessageFolder:
        return MessageFolder(Path("/"), self.mapping.files, self.mapping.source.exclude)

    def translate(
        self, found: list[Entry], last: EntryId, already: set[EntryId], cursor: EntryId, epoch: int
    ) -> MirrorBatch:
        """Makes a new file of each of these entries, read behind `cursor` and up to `last`, for the mirror to write.

        Passes over those in `already`, which have their file, and file-born ones; sets aside what cannot be a file, or
        ends there where the mapping is to stop.
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
        """Returns the path of the new file that an entry becomes, and its content, or why it has none."""
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
    """Makes a part of the name of the mirror's new file of a field's value, a hyphen of all but plain letters. Pure."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", value.decode("utf-8", "replace"))[:LONGEST_NAME_PART]
