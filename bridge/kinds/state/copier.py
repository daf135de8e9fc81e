"""Copies the latest values of states from the side that owns them to the other side, whole and never older.

Nothing but the latest value could be lost on the way, so there is no cursor: both sides are compared, by digest, and
the owner's wins. A value that lasted less than the settling time may never be seen.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from bridge.continuity.ownership import claim_stream
from bridge.core.codecs.timestamps import older
from bridge.core.errors import BridgeError, RedisRefused, SourceError, TargetError
from bridge.core.failpoints import failpoint
from bridge.core.globs import is_glob
from bridge.core.logger import logger
from bridge.core.model import EntryId, digest, shown
from bridge.files.atomic import AtomicFolder
from bridge.files.folder import MessageFolder
from bridge.kinds.carrier import Carrier
from bridge.kinds.direction_stats import DirectionStats, SourceRates
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.state.state_owner import StateOwnership
from bridge.kinds.state.value_files import ValueFile, ValueFiles, numbered
from bridge.kinds.state.value_hashes import VERIFY, ValueHashes
from bridge.ledger.sources import save_stream, stream_memory
from bridge.ledger.states import forget_value, save_value, values, version_of
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams import latest_value
from bridge.streams.connect import Connection
from bridge.streams.latest_value import IN_PASSING, SeenValue, StateValue
from bridge.streams.reader import stream_info
from bridge.streams.writer import Conflict

REDIS_LOOK_SECONDS = 0.1
"""Seconds between two looks at Redis for changed states, while Redis owns their values."""

ODD = 5.0
"""Seconds after which the state copier reports a hash whose digest is not that of its data."""


class StateCopier(Carrier):
    """The state copier of one mapping: copies latest values to the side that does not own them."""

    def __init__(
        self, shared: MappingContext, ledger: Ledger, troubles: Troubles, clock: Callable[[], float],
        dial: Callable[[], Connection],
    ) -> None:  # fmt: skip
        super().__init__(shared)
        self._copied = 0
        source = shared.mapping.source
        self.owned = StateOwnership(ledger, shared.mapping, shared.components, clock)
        folder = shared.values or MessageFolder(shared.settings.root, source.path)
        self._values = ValueFiles(shared.mapping, folder, clock, self._note, self._fine)
        self._ledger = ledger
        self._troubles = troubles
        self._clock = clock
        self._began = clock()
        self._dial = dial
        self._stream = shared.mapping.stream.key
        self._path = source.path
        self._settle = source.settle_ms / 1000
        self._blind: SourceError | None = None
        """The error at the last look at the states' folder; None: there was none."""
        self._hashes = ValueHashes(self._values, shared.keys, clock, self._note, self._fine)
        self._verify_at = 0.0

    # -- the files -------------------------------------------------------------------------------------------

    def look(self, paths: set[str] | None = None) -> None:
        """Looks at the state files that something happened to; with None, at all state files of the mapping."""
        self._blind = None
        try:
            self._values.look(paths)
        except SourceError as error:
            self._blind = error
            self._troubles.note(self._ledger, self.worker, error)

    @property
    def waits(self) -> bool:
        """Whether a state's file changed so lately that it may not be complete."""
        return self._values.waits

    @property
    def sources(self) -> list[ValueFile]:
        """The files of all the mapping's states, in the order of their names."""
        return [self._values.files[name] for name in sorted(self._values.files)]

    def failures(self) -> list[BridgeError]:
        """Returns the errors that keep states from being copied."""
        found = [self._blind, self.owned.trouble, *(file.trouble for file in self.sources)]
        return [error for error in found if error is not None]

    @property
    def carried(self) -> int:
        """How many values the state copier has copied."""
        return self._copied

    def measure(self) -> DirectionStats:
        """Brings the statistics of the direction that values go by their owner up to date, and returns them."""
        flow = self.shared.forward if self.owned.by_file else self.shared.mirror
        flow.parts = {self._path: SourceRates(self._copied, sum(file.settling for file in self.sources))}
        return flow

    def _note(self, file: ValueFile, error: BridgeError) -> None:
        file.trouble = error
        self._troubles.note(self._ledger, f"{self.worker}: {file.name}", error)

    def _fine(self, file: ValueFile) -> None:
        file.odd = 0.0
        if file.trouble is not None and not file.settling:
            file.trouble = None
            self._troubles.clear(self._ledger, f"{self.worker}: {file.name}")

    # -- connecting ------------------------------------------------------------------------------------------

    @property
    def attached(self) -> bool:
        """Whether the state copier is connected to Redis, so that `step` may be called."""
        return self._connection is not None

    def attach(self) -> None:
        """Connects the state copier to Redis and claims the states' stream.

        Raises RedisLost, RedisRefused, NotOwner, LedgerError.
        """
        self.detach()
        connection = self._dial()
        try:
            keys = self.shared.keys
            memory = stream_memory(self._ledger, self._stream)
            claim_stream(connection, self.shared.components, self._ledger, memory, self.shared.settings.group)
            self.shared.hold.take(connection, self._ledger)
            numbered(connection, self.shared.keys, self._ledger, self._path)
            info = stream_info(connection, keys.stream)
            with self._ledger.transaction():
                save_stream(self._ledger, self._stream, info.last_id, info.added)
            for name, (sha256, at) in values(self._ledger, self._stream).items():
                file = self._values.file(name)
                file.both, file.both_at = sha256, at
            self.owned.look(connection, self._forget_taken_away)
            self._hashes.attach(self._dial)
            self._look_anew()
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self.shared.forward.connections += 1

    def _look_anew(self) -> None:
        """Makes the state copier read both sides again, whatever they were before."""
        if not self.owned.by_file and not is_glob(self._path):
            self._values.file(os.fsencode(self._path))
        for file in self.sources:
            file.told, file.seen, file.deep_at, file.size = False, None, 0.0, 0
        self._hashes.anew()
        self._verify_at = 0.0

    def _carries(self, connection: Connection) -> bool:
        """Reads which side owns the states now; False: none, as a component that writes states is being switched.

        False also where Redis lost which side that component writes.
        """
        lost, before = self.owned.lost, self.owned.look(connection, self._forget_taken_away)
        now = self.owned.now
        if (now.side, now.token) != (before.side, before.token):
            said = "another side is to own the values" if now.asked else f"the {now.side} side owns the values"
            logger.info("%s: %s", self.worker, said)
            if now.side != before.side:  # the values in memory may be Redis's: the files are read again
                for file in self.sources:
                    file.facts = None
                self.look()
            self._look_anew()
        if self.owned.lost is not None:
            self._troubles.note(self._ledger, self.worker, self.owned.lost)
        elif lost is not None:
            self._troubles.clear(self._ledger, self.worker)
        return self.owned.trouble is None

    def _forget_taken_away(self) -> None:
        """Has the state copier forget states whose file was removed: none is put back once Redis owns its value."""
        for file in self.sources:
            if file.facts is None and self.owned.by_file and self._blind is None:
                forget_value(self._ledger, self._stream, file.raw_name)
                del self._values.files[file.raw_name]

    def detach(self) -> None:
        """Closes the state copier's connection to Redis; `attach` makes another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._hashes.detach()

    def rest(self) -> float:
        """Returns the seconds until the state copier has something to do without a wake-up."""
        if self.waits:
            return min(self._settle / 2, REDIS_LOOK_SECONDS)
        return VERIFY if self.owned.by_file and not self.owned.trouble else REDIS_LOOK_SECONDS

    def release(self) -> None:
        """Gives the lease of the states' stream back for other processes to take. Raises RedisLost, RedisRefused."""
        self.shared.hold.release(self._connected)

    @property
    def _connected(self) -> Connection:
        if self._connection is None:
            raise AssertionError("not attached")
        return self._connection

    def _put(
        self, file: ValueFile, value: StateValue, fields: list[bytes] | None = None, *, only_entry: bool = False
    ) -> tuple[bool, EntryId | None, int]:
        """Writes a state's value into its Redis hash, under this process's lease, with a version above all before."""
        above, notify = version_of(self._ledger, self._stream, file.raw_name), self.shared.mapping.notify.encode()
        return latest_value.put(
            self._connected, self.shared.keys, self.shared.hold.holder(self._ledger), file.raw_name, value, notify,
            fields=fields, only_entry=only_entry, above=above,
        )  # fmt: skip

    # -- carrying --------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Copies states whose value changed from the side that owns them, files or Redis, to the other.

        False: none changed, or this bridge does not carry the mapping now.

        Raises Conflict, RedisLost, RedisRefused, LedgerError: then detach and attach.
        """
        connection = self._connected
        if not self.shared.hold.renewed(connection, self._clock()):
            raise Conflict
        if not self._carries(connection):
            return False
        for file in self.sources:
            self._values.take(file)
        return self._from_files(connection) if self.owned.by_file else self._from_redis(connection)

    # -- the file owns it ------------------------------------------------------------------------------------

    def _from_files(self, connection: Connection) -> bool:
        if self._clock() >= self._verify_at:
            self._verify_at = self._clock() + VERIFY
            for file, seen, deep in self._hashes.looked(connection):
                if file.value is not None:
                    file.told = self._holds(connection, file, file.value, seen, deep=deep)
                    file.agrees = file.told and deep
        moved = False
        for file in self.sources:
            if file.value is None or file.barred or (file.told and file.value.sha256 == file.both):
                continue
            self._send(connection, file, file.value)
            moved = True
        return moved

    def _holds(
        self, connection: Connection, file: ValueFile, value: StateValue, seen: SeenValue, *, deep: bool
    ) -> bool:
        if not seen.says(value):
            return False
        if seen.sha1 or not deep:
            return True
        data = connection.call("HGET", latest_value.key_of(self.shared.keys, file.raw_name), "data")
        return bool(data == value.data)

    def _send(self, connection: Connection, file: ValueFile, value: StateValue) -> None:
        failpoint("state.send.before")
        history = self.shared.mapping.stream.history
        fields = self._fields(connection, file, value, origin=True) if history else None
        done, entry, version = self._put(file, value, fields)
        failpoint("state.send.after")
        if not done:
            raise Conflict
        self._fine(file)
        if file.facts is not None and value.sha256 != file.both and file.facts.written / 1e9 >= self._began:
            self.shared.forward.latency.add(self._clock() - file.facts.written / 1e9)
        self._noted(file, value, entry, version)

    def _fields(self, connection: Connection, file: ValueFile, value: StateValue, *, origin: bool) -> list[bytes]:
        fields = [b"role", value.role, b"timestamp", value.timestamp, b"type", file.type, b"data", value.data]
        if not origin:
            return fields
        file.number = file.number or numbered(connection, self.shared.keys, self._ledger, os.fsdecode(file.raw_name))
        return [*fields, b"origin", b"%d.\0version:0" % file.number]

    def _noted(self, file: ValueFile, value: StateValue, entry: EntryId | None, version: int = 0) -> None:
        failpoint("state.note.before")
        save_value(self._ledger, self._stream, file.raw_name, value.sha256, value.timestamp, version)
        failpoint("state.note.after")
        file.told, file.both, file.both_at = True, value.sha256, value.timestamp
        file.counts.entries += 1
        self._copied += 1
        flow = self.shared.forward if self.owned.by_file else self.shared.mirror
        flow.carried(1, file.size_on_disk)
        if entry is not None:
            self.span = (self.span[0] if self.span else entry, entry)

    # -- Redis owns it ---------------------------------------------------------------------------------------

    def _from_redis(self, connection: Connection) -> bool:
        moved = False
        for file, seen, deep in self._hashes.looked(connection):
            if file.settling or self._clock() < file.again:
                continue
            if seen.size < 0:
                if seen.kind == b"none" and file.value is not None and file.value.sha256 == file.both:
                    self._put_back(file, file.value)
                file.agrees = True
                continue
            if file.seen is None or seen.differs(file.seen, deep=deep):
                found = latest_value.read(connection, self.shared.keys, file.raw_name)
                if found is not None and self._compared(connection, file, *found, seen):
                    moved = True
            file.agrees = deep and file.seen is not None and not seen.differs(file.seen, deep=False)
        return moved

    def _compared(
        self, connection: Connection, file: ValueFile, value: StateValue, said: bytes, seen: SeenValue
    ) -> bool:
        """Compares a state's Redis hash that changed with the state's file; True: the file was written."""
        if value.sha256 != said:  # somebody is setting its fields one after the other
            self._contradicts(file, seen)
            return False
        file.odd, written = 0.0, False
        seen = seen._replace(sha1=value.sha1 if len(value.data) <= IN_PASSING else b"")
        if file.value is None or file.value.sha256 != value.sha256:
            if file.both != value.sha256 and older(value.timestamp, file.both_at):
                said_so = f"Redis holds an older value ({shown(value.timestamp, 40)}) than the file"
                hint = "the file is left alone; a value that is to count needs a timestamp that is not older"
                self._note(file, SourceError(said_so, where=self._hashes.where(file), hint=hint))
                file.seen = seen
                return False
            settings = self.shared.settings
            patience = min(settings.replicas_timeout, VERIFY)  # nobody may have to wait for it at the end
            self.shared.hold.await_replicas(connection, settings.replicas, patience)
            if not self._write(file, value):
                return False
            written = True
        self._fine(file)
        if written or file.both != value.sha256:
            self._finish(connection, file, value)
        file.seen = seen
        return written

    def _contradicts(self, file: ValueFile, seen: SeenValue) -> None:
        file.odd = file.odd or self._clock()
        if self._clock() - file.odd >= ODD:
            hint = "set data and sha256 (of the data, in hex) with one HSET, or remove sha256"
            self._note(
                file, SourceError("its sha256 is not that of its data", where=self._hashes.where(file), hint=hint)
            )
            file.seen = seen

    def _put_back(self, file: ValueFile, value: StateValue) -> None:
        """Writes a state's value, which both sides held and Redis lost, into Redis again."""
        value = StateValue(value.data, file.both_at, file.role)
        done, _, _ = self._put(file, value)
        if not done:  # Redis may have lost who owns the stream as well
            raise Conflict
        logger.warning("Redis lost state %s: the file's value was put back", file.name)

    def _write(self, file: ValueFile, value: StateValue) -> bool:
        """Writes a state's value from Redis into the state's file; False: the file could not be written."""
        if file.both == value.sha256:
            what = "changed" if file.value is not None else "taken away"
            logger.warning("%s was %s, and Redis owns it: its value is put back", file.name, what)
        folder, _, last = os.fsdecode(file.raw_name).rpartition("/")
        try:
            place = AtomicFolder(self.shared.settings.root, folder)
            try:
                failpoint("state.write.before")
                file.facts = place.replace(digest(self._stream.encode(), file.raw_name).hex(), last, value.data)
                failpoint("state.write.after")
            finally:
                place.close()
        except TargetError as error:
            self._note(file, error)
            file.again = self._clock() + VERIFY
            return False
        file.value, file.settling = value, False
        return True

    def _finish(self, connection: Connection, file: ValueFile, value: StateValue) -> None:
        """Notes in the ledger that a state's file holds the value from Redis, and adds an entry if one is wanted."""
        entry = None
        if self.shared.mapping.stream.history:
            fields = self._fields(connection, file, value, origin=False)
            done, entry, _ = self._put(file, value, fields, only_entry=True)
            if not done:
                raise RedisRefused("the value changed while its entry was added", code="OVERTAKEN")
        self._noted(file, value, entry)
