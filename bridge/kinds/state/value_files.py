"""Reads the files that each hold a state's latest value, once a file is complete, and notices files that are gone."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from bridge.core.codecs.document import iso_time
from bridge.core.errors import BridgeError, SourceError
from bridge.core.mapping import Mapping
from bridge.core.model import shown_name
from bridge.files.folder import BUSY, FileFacts, FoundFile, MessageFolder
from bridge.kinds.source_counts import SourceCounts
from bridge.kinds.source_files import SourceLag
from bridge.ledger.sources import SourceMemory, save_source, sources_of
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.latest_value import LIMIT, SeenValue, StateValue
from bridge.streams.stream_metadata import read_metadata

UNSETTLED_SECONDS = 1.0
"""Seconds, on top of some settling times, after which nobody waits any longer for a value file that keeps changing."""


@dataclass(slots=True)
class ValueFile:
    """A value file: the file of one state's latest value, as last seen, with the counts that an import wants."""

    name: str
    raw_name: bytes
    role: bytes
    type: bytes
    facts: FileFacts | None = None
    value: StateValue | None = None
    since: float = 0.0
    """Since when the file is as it was last seen."""
    settling: bool = False
    began: float = 0.0
    """When the file, if it is settling, was first seen to change."""
    told: bool = False
    """Whether the other side was seen to hold `value`."""
    barred: bool = False
    """Whether the Redis key of the value's hash holds another type than a hash."""
    seen: SeenValue | None = None
    """What the value's hash in Redis said when both sides were last compared."""
    agrees: bool = False
    """Whether the file and the value's hash were seen to agree, and no change of either was reported since."""
    size: int = 0
    """How many bytes the data in the value's hash had when Redis was last asked."""
    deep_at: float = 0.0
    """When the data in the value's hash are to be compared again."""
    again: float = 0.0
    """When the bridge tries again to write the file, after writing failed."""
    odd: float = 0.0
    """Since when the value's hash in Redis contradicts itself; 0: it does not."""
    both: bytes = b""
    """The digest of the value that both sides were last known to hold, as the ledger has it."""
    both_at: bytes = b""
    """The timestamp of the value that both sides were last known to hold."""
    number: int = 0
    """The number that stands for the file in origins; 0: it was not needed yet."""
    counts: SourceCounts = field(default_factory=SourceCounts)
    damage: dict[int, SourceError] = field(default_factory=dict)
    trouble: BridgeError | None = None

    @property
    def size_on_disk(self) -> int:
        """How many bytes a state's value file has; 0: it is not there."""
        return self.facts.size if self.facts is not None else 0

    def lag(self) -> SourceLag:
        """Measures how much of a state's value file is still to be copied."""
        size = self.size_on_disk
        known = self.value.sha256 == self.both if self.value is not None else self.trouble is not None
        return SourceLag(0 if known else size, size, size if self.settling else 0)


class ValueFiles:
    """The value files of one mapping's states; calls `note` with a file's trouble, and `fine` where there is none."""

    def __init__(
        self, mapping: Mapping, folder: MessageFolder, clock: Callable[[], float],
        note: Callable[[ValueFile, BridgeError], None], fine: Callable[[ValueFile], None],
    ) -> None:  # fmt: skip
        self._mapping = mapping
        self._folder = folder
        self._clock = clock
        self._note = note
        self._fine = fine
        self._settle = mapping.source.settle_ms / 1000
        self.files: dict[bytes, ValueFile] = {}

    def file(self, name: bytes) -> ValueFile:
        """Returns the record of the value file of this name, whether the file is there or not."""
        if name not in self.files:
            row = self._mapping.codec(os.fsdecode(name)).decode([b""]).rows[0]
            role, kind = (row[0], row[2]) if isinstance(row, tuple) else (b"", b"")
            self.files[name] = ValueFile(shown_name(name), name, role, kind)
        return self.files[name]

    def look(self, paths: set[str] | None) -> None:
        """Looks at the value files at `paths`, which something happened to; with None, at all of them.

        Raises SourceError.
        """
        if paths is None:
            found = {found_file.name: found_file for some in self._folder.scan() for found_file in some}
            names = found.keys() | self.files.keys()
        else:
            names = {name for path in paths if (name := self._folder.below(path)) and self._folder.has(name)}
            found = {name: folder_scan for name in names if (folder_scan := self._folder.find(name)) is not None}
        for name in names:
            self._met(name, found.get(name))

    def _met(self, name: bytes, found: FoundFile | None) -> None:
        if found is None:
            if name in self.files:
                self._gone(self.files[name])
            return
        file = self.file(name)
        if file.facts != found.facts:
            file.began = file.began if file.settling else self._clock()
            file.facts, file.since, file.settling = found.facts, self._clock(), True
        self.take(file)

    def _gone(self, file: ValueFile) -> None:
        if file.facts is not None:
            file.facts, file.value, file.settling, file.seen, file.agrees = None, None, False, None, False
            self._fine(file)

    def take(self, file: ValueFile) -> None:
        """Reads a state's value file that changed, once the file is complete."""
        if not file.settling or file.facts is None:
            return
        now = self._clock()
        age = file.facts.age(now, file.since)
        if age < self._settle:
            return
        if file.facts.size > LIMIT:
            said = f"is too large for a value: {file.facts.size} bytes, the limit is {LIMIT}"
            file.value, file.settling = None, False
            self._note(file, SourceError(said, where=file.name, hint="let it be an artifact"))
            return
        try:
            taken = self._folder.read(file.raw_name, LIMIT)
        except SourceError as error:  # the others go on
            self._note(file, error)
            return
        if taken is None or taken.facts != file.facts:
            found = self._folder.find(file.raw_name)
            if found is None:
                self._gone(file)
            else:
                file.facts, file.since = found.facts, now
        elif not taken.busy or age >= BUSY:
            file.value, file.settling = StateValue(taken.raw, iso_time(taken.facts.written), file.role), False
            file.told, file.seen, file.agrees = False, None, False
            self._fine(file)

    @property
    def waits(self) -> bool:
        """Whether a value file changed so lately that it may be incomplete, and has not kept changing for too long."""
        now, longest = self._clock(), 4 * self._settle + UNSETTLED_SECONDS
        return any(file.settling and now - file.began < longest for file in self.files.values())


def numbered(connection: Connection, keys: Keys, ledger: Ledger, path: str) -> int:
    """Returns the number that stands for a value file's path in origins, and makes it known to ledger and Redis.

    A path that is no UTF-8 is known as it is shown. Raises RedisLost, RedisRefused, LedgerError.
    """
    raw = os.fsencode(path)
    try:
        path.encode()
    except UnicodeEncodeError:
        path = shown_name(raw)
    stream = keys.stream.decode()
    sources = sources_of(ledger, stream)
    if path not in sources:
        books, taken = read_metadata(connection, keys), [source.number for source in sources.values()]
        memory = SourceMemory(books.number_for(os.fsencode(path), taken), None, live=True)
        save_source(ledger, stream, path, memory)
        sources[path] = memory
    connection.call("HSET", keys.sources, os.fsencode(path), sources[path].number)
    return sources[path].number
