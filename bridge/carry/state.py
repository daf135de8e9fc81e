"""Files that are overwritten with a latest value: the owner's side is copied to the other, whole and never older.

There is nothing to lose on the way but the latest value, so there is no cursor: both sides are compared, by digest, and
the owner's wins. A value that lasted less than the settling time may never be seen.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bridge.carry.refill import number_for, own
from bridge.carry.shared import Shared
from bridge.carry.tally import Tally
from bridge.codecs.document import moment
from bridge.errors import BridgeError, LedgerError, RedisRefused, SourceError, TargetError
from bridge.files.place import Place
from bridge.files.spool import BUSY, Facts, Folder
from bridge.ledger.sources import SourceMemory, save_source, save_stream, sources_of, stream_memory
from bridge.ledger.state import save_value, values
from bridge.ledger.store import Ledger
from bridge.log import Troubles, log
from bridge.model import EntryId, digest, shown, shown_name
from bridge.points import reached
from bridge.streams import state
from bridge.streams.connect import Connection
from bridge.streams.reader import stream_info
from bridge.streams.state import LIMIT, Value
from bridge.streams.writer import Overtaken, read_books

LOOK = 0.1
"""Seconds between two looks at what Redis owns."""

VERIFY = 1.0
"""Seconds between two looks at whether the other side still holds what it was given."""

ODD = 5.0
"""Seconds after which a hash whose digest is not that of its data is told of."""


@dataclass(slots=True)
class File:
    """One state's file, as it was last seen; with what an import wants to know of a source."""

    name: str
    raw_name: bytes
    role: bytes
    type: bytes
    facts: Facts | None = None
    value: Value | None = None
    since: float = 0.0
    settling: bool = False
    told: bytes = b""
    """The digest of the value that the other side was last seen to hold."""
    both: bytes = b""
    """The digest of the value that both sides were last known to hold, as the ledger has it."""
    both_at: bytes = b""
    """The timestamp of that."""
    tally: Tally = field(default_factory=Tally)
    damage: dict[int, SourceError] = field(default_factory=dict)
    trouble: BridgeError | None = None
    rejected: int = 0

    def left(self) -> int:
        """Bytes that are to be carried."""
        return self.on_disk() if self.value is None or self.value.sha256 != self.both else 0

    def on_disk(self) -> int:
        """Bytes of the file."""
        return self.facts.size if self.facts is not None else 0

    def unfinished(self) -> int:
        """Bytes of a file that is not complete."""
        return self.on_disk() if self.settling else 0


class State:
    """One mapping's. As `carry.forward.Forward` to those who run it."""

    def __init__(
        self, shared: Shared, ledger: Ledger, troubles: Troubles, clock: Callable[[], float],
        dial: Callable[[], Connection],
    ) -> None:  # fmt: skip
        self.shared = shared
        self.worker = f"forward {shared.mapping.name}"
        self.carried = 0
        self.batch = 1
        self.span: tuple[EntryId, EntryId] | None = None
        source = shared.mapping.source
        self._owner_is_file = source.owner == "file"
        self._folder = shared.values or Folder(shared.settings.root, source.path)
        self._files: dict[bytes, File] = {}
        self._ledger = ledger
        self._troubles = troubles
        self._clock = clock
        self._dial = dial
        self._stream = shared.mapping.stream.key
        self._settle = source.settle_ms / 1000
        self._connection: Connection | None = None
        self._number = 0
        self._verify_at = 0.0
        self._odd: dict[bytes, float] = {}
        """Since when hashes contradict themselves."""

    # -- the files -------------------------------------------------------------------------------------------

    def look(self, paths: set[str] | None = None) -> None:
        """Looks at the files something happened to; at None at all of them."""
        try:
            if paths is None:
                found = [one for some in self._folder.scan() for one in some]
            else:
                names = {name for path in paths if (name := self._folder.below(path))}
                found = [one for name in names if (one := self._folder.find(name)) is not None]
            for one in found:
                file = self._file(one.name)
                if file.facts != one.facts:
                    file.facts, file.since, file.settling = one.facts, self._clock(), True
                self._take(file)
        except (SourceError, LedgerError) as error:
            self._troubles.note(self._ledger, self.worker, error)
            for file in self._files.values():
                file.trouble = error

    def _file(self, name: bytes) -> File:
        if name not in self._files:
            row = self.shared.mapping.codec(os.fsdecode(name)).decode([b""]).rows[0]
            role, kind = (row[0], row[2]) if isinstance(row, tuple) else (b"", b"")
            self._files[name] = File(shown_name(name), name, role, kind)
        return self._files[name]

    def _take(self, file: File) -> None:
        """Reads a file that changed, once it is complete."""
        if not file.settling or file.facts is None:
            return
        now = self._clock()
        age = file.facts.age(now, file.since)
        if age < self._settle:
            return
        if file.facts.size > LIMIT:
            said = f"is too large for a value: {file.facts.size} bytes, the limit is {LIMIT}"
            self._note(file, SourceError(said, where=file.name, hint="let it be an artifact"))
            file.value, file.settling = None, False
            return
        taken = self._folder.read(file.raw_name, LIMIT)
        if taken is None or taken.facts != file.facts or (taken.busy and age < BUSY):
            file.since = now if taken is None or taken.facts != file.facts else file.since
            file.facts = taken.facts if taken is not None else file.facts
            return
        file.value = Value(taken.raw, moment(taken.facts.written), file.role)
        file.settling = False
        self._fine(file)

    @property
    def waits(self) -> bool:
        """Whether a file changed so lately that it may not be complete."""
        return any(file.settling and self._clock() - file.since < 4 * self._settle for file in self._files.values())

    @property
    def sources(self) -> list[File]:
        """All files, by name."""
        return [self._files[name] for name in sorted(self._files)]

    def failures(self) -> list[BridgeError]:
        """What keeps values from being carried."""
        return [file.trouble for file in self.sources if file.trouble is not None]

    def counts(self) -> dict[str, int]:
        """Values that were carried, for each file."""
        return {f"{self.worker}: {file.name}": file.tally.entries for file in list(self._files.values())}

    def take_as_history(self) -> None:
        """There is no history but the value that is there."""

    # -- connecting ------------------------------------------------------------------------------------------

    @property
    def attached(self) -> bool:
        """Whether `step` may be called."""
        return self._connection is not None

    def attach(self) -> None:
        """Connects, and makes sure of the ownership. Raises RedisLost, RedisRefused, NotOwner, LedgerError."""
        self.detach()
        connection = self._dial()
        try:
            keys, path = self.shared.keys, self.shared.mapping.source.path
            own(connection, keys, self._ledger, stream_memory(self._ledger, self._stream),
                self.shared.settings.instance)  # fmt: skip
            books, name = read_books(connection, keys), os.fsencode(path)
            sources = sources_of(self._ledger, self._stream)
            taken = [one.number for one in sources.values()]
            self._number = sources[path].number if path in sources else number_for(name, books, taken)
            connection.call("HSET", keys.sources, name, self._number)
            info = stream_info(connection, keys.stream)
            with self._ledger.transaction():
                save_stream(self._ledger, self._stream, info.last_id, info.added)
                save_source(self._ledger, self._stream, path, SourceMemory(self._number, None, live=True))
            for known, (sha256, at) in values(self._ledger, self._stream).items():
                file = self._file(known)
                file.told, file.both, file.both_at = sha256, sha256, at
            if not self._owner_is_file and not any(c in path for c in "*?["):
                self._file(name)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._verify_at = 0.0

    def detach(self) -> None:
        """Drops the connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def tell(self, wait: Callable[[float], object]) -> None:
        """Nothing is found out aside."""

    def rest(self) -> float:
        """Seconds until there is something to do without a wake-up."""
        return min(self._settle / 2, LOOK) if self.waits else VERIFY if self._owner_is_file else LOOK

    def flush(self) -> bool:
        """There is no cursor."""
        return False

    # -- carrying --------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Carries what changed on the owner's side; False when nothing did.

        Raises Overtaken, RedisLost, RedisRefused, LedgerError: then detach and attach.
        """
        connection = self._connection
        if connection is None:
            raise AssertionError("not attached")
        for file in self._files.values():
            self._take(file)
        return self._from_files(connection) if self._owner_is_file else self._from_redis(connection)

    def _from_files(self, connection: Connection) -> bool:
        if self._clock() >= self._verify_at:
            self._verify_at = self._clock() + VERIFY
            for name, (said, sha1) in state.digests(connection, self.shared.keys, [*self._files]).items():
                value = self._files[name].value
                self._files[name].told = said if value is None or _is(value, said, sha1) else b""
        moved = False
        for file in self._files.values():
            if file.value is not None and not file.value.sha256 == file.told == file.both:
                self._send(connection, file, file.value)
                moved = True
        return moved

    def _send(self, connection: Connection, file: File, value: Value) -> None:
        mapping = self.shared.mapping
        reached("state.send.before")
        done, entry = state.put(
            connection, self.shared.keys, self._ledger.uuid, file.raw_name, value, mapping.notify.encode(),
            fields=self._fields(file, value, origin=True) if mapping.stream.history else None,
        )  # fmt: skip
        reached("state.send.after")
        if not done:
            raise Overtaken
        self._noted(file, value, entry)

    def _fields(self, file: File, value: Value, *, origin: bool) -> list[bytes]:
        fields = [b"role", value.role, b"timestamp", value.timestamp, b"type", file.type, b"data", value.data]
        return fields + ([b"origin", b"%d.\0version:0" % self._number] if origin else [])

    def _noted(self, file: File, value: Value, entry: EntryId | None) -> None:
        reached("state.note.before")
        save_value(self._ledger, self._stream, file.raw_name, value.sha256, value.timestamp)
        reached("state.note.after")
        file.told, file.both, file.both_at = value.sha256, value.sha256, value.timestamp
        file.tally.entries += 1
        self.carried += 1
        if entry is not None:
            self.span = (self.span[0] if self.span else entry, entry)

    def _from_redis(self, connection: Connection) -> bool:
        moved = False
        for name, (said, sha1) in state.digests(connection, self.shared.keys, sorted(self._files)).items():
            file = self._files[name]
            if file.settling or (_is(file.value, said, sha1) and file.both == said):
                self._fine(file)
                continue
            found = state.read(connection, self.shared.keys, name)
            if found is None:
                continue
            value, said = found
            if value.sha256 != said:  # somebody is setting its fields one after the other
                self._contradicts(file)
            elif file.value is not None and file.value.sha256 == said:
                self._finish(connection, file, value)
            else:
                self._odd.pop(name, None)
                moved = self._write(connection, file, value) or moved
        return moved

    def _contradicts(self, file: File) -> None:
        since = self._odd.setdefault(file.raw_name, self._clock())
        if self._clock() - since >= ODD:
            hint = "set data and sha256 (of the data, in hex) with one HSET, or remove sha256"
            self._note(file, SourceError("its sha256 is not that of its data", where=f"state {file.name}", hint=hint))

    def _fine(self, file: File) -> None:
        self._odd.pop(file.raw_name, None)
        if file.trouble is not None and not file.settling:
            file.trouble = None
            self._troubles.clear(self._ledger, f"{self.worker}: {file.name}")

    def _note(self, file: File, error: BridgeError) -> None:
        file.trouble = error
        self._troubles.note(self._ledger, f"{self.worker}: {file.name}", error)

    def _write(self, connection: Connection, file: File, value: Value) -> bool:
        """Puts a value into its file, unless it is older than the one that is there."""
        if file.both != value.sha256 and older(value.timestamp, file.both_at):
            said = f"Redis holds an older value ({shown(value.timestamp, 40)}) than the file"
            hint = "the file is left alone; a value that is to count needs a timestamp that is not older"
            self._note(file, SourceError(said, where=f"state {file.name}", hint=hint))
            return False
        if file.value is not None and file.both and file.value.sha256 != file.both:
            log.warning("%s was changed, and Redis owns it: its value is put back", file.name)
        folder, _, last = os.fsdecode(file.raw_name).rpartition("/")
        try:
            place = Place(self.shared.settings.root, folder)
            try:
                reached("state.write.before")
                file.facts = place.replace(digest(self._stream.encode(), file.raw_name).hex(), last, value.data)
                reached("state.write.after")
            finally:
                place.close()
        except TargetError as error:
            self._note(file, error)
            return False
        file.value, file.settling = value, False
        self._finish(connection, file, value)
        return True

    def _finish(self, connection: Connection, file: File, value: Value) -> None:
        """The file holds what Redis has: its entry is added, if there is to be one, and the ledger knows."""
        self._fine(file)
        entry = None
        if self.shared.mapping.stream.history:
            fields = self._fields(file, value, origin=False)
            done, entry = state.put(connection, self.shared.keys, self._ledger.uuid, file.raw_name, value,
                                    self.shared.mapping.notify.encode(), fields=fields, only_entry=True)  # fmt: skip
            if not done:
                raise RedisRefused("the value changed while its entry was added", code="OVERTAKEN")
        self._noted(file, value, entry)


def _is(value: Value | None, said: bytes, sha1: str) -> bool:
    """Whether a hash with these digests holds this value."""
    if value is None or value.sha256 != said:
        return False
    return not sha1 or hashlib.sha1(value.data, usedforsecurity=False).hexdigest() == sha1


def older(one: bytes, other: bytes) -> bool:
    """Whether the first time is before the second, as far as both can be read as ISO 8601, or seconds or ms of 1970."""
    times = []
    for stamp in (one, other):
        try:
            if re.fullmatch(rb"\d{9,14}(\.\d+)?", stamp):
                number = float(stamp)
                times.append(number / 1000 if number > 1e11 else number)
            else:
                moment = datetime.fromisoformat(stamp.decode("ascii"))
                times.append((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
        except (ValueError, OverflowError):
            return False
    return times[0] < times[1]
