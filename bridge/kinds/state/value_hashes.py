"""Reads the Redis hashes of states' latest values, and decides which value hashes are to be read again.

A hash that agrees with its file is read again when one of the two changes: the server reports that by client tracking.
Where the server does not, all hashes are read, again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bridge.core.errors import BridgeError, RedisRefused
from bridge.core.logger import logger
from bridge.core.model import shown
from bridge.kinds.state.value_files import ValueFile, ValueFiles
from bridge.streams import latest_value
from bridge.streams.client_tracking import ClientTracking
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.latest_value import IN_PASSING, SeenValue

VERIFY = 1.0
"""Seconds between two checks that a value hash still holds the value last seen, where the server reports no changes."""

ALL = 60.0
"""Seconds between two reads of all value hashes, where the server reports changes."""

SLOWLY = 1.0
"""Seconds until the next one, for each MiB of a value hash that is too long for the server to hash and is read."""


class ValueHashes:
    """Reads from Redis the hashes of a state mapping's values that may have changed since the last look.

    `note` is called with the trouble of a value, `fine` where it has none.
    """

    def __init__(
        self, values: ValueFiles, keys: Keys, clock: Callable[[], float],
        note: Callable[[ValueFile, BridgeError], None], fine: Callable[[ValueFile], None],
    ) -> None:  # fmt: skip
        self._values = values
        self._keys = keys
        self._clock = clock
        self._note = note
        self._fine = fine
        self._tracking: ClientTracking | None = None
        self._all_at = 0.0
        self._slow_at = 0.0
        """When the next value that is too long for the server to hash is read."""

    def attach(self, dial: Callable[[], Connection]) -> None:
        """Asks the server to report every change of a state's value hash, if it can. Raises RedisLost."""
        self.detach()
        try:
            self._tracking = ClientTracking(dial(), latest_value.key_of(self._keys, b""))
        except RedisRefused as error:
            logger.info("%s: all values are looked at again and again: %s", self._keys.stream.decode(), error)
        self.anew()

    def detach(self) -> None:
        """Ends the client tracking of states' value hashes."""
        if self._tracking is not None:
            self._tracking.close()
        self._tracking = None

    def anew(self) -> None:
        """Makes all states' value hashes due to be read, whatever they said before."""
        self._all_at = self._slow_at = 0.0

    def looked(self, connection: Connection) -> Iterator[tuple[ValueFile, SeenValue, bool]]:
        """Yields states' files whose value hashes are due, and what the hashes say; True: data were asked for too.

        Reports by `note` a key that holds no hash. Raises RedisLost, RedisRefused.
        """
        now, files = self._clock(), self._values.files
        self._hear(now)
        deep = {
            name: file.size <= IN_PASSING and (self._tracking is not None or now >= file.deep_at)
            for name, file in sorted(files.items()) if not file.agrees
        }  # fmt: skip
        large = [files[name] for name in deep if files[name].size > IN_PASSING]
        if large and now >= self._slow_at:  # one at a time: all their bytes go over the connection
            longest = min(large, key=lambda file: file.deep_at)
            deep[longest.raw_name], self._slow_at = True, now + SLOWLY * longest.size / (1 << 20)
        for name, seen in latest_value.look(connection, self._keys, [*deep.items()]).items():
            file = files[name]
            before, file.barred = file.barred, seen.kind not in (b"hash", b"none")
            if deep[name]:
                file.deep_at = now + VERIFY
            file.size = seen.size
            if file.barred and not before:
                said, hint = f"holds a {seen.kind.decode()}, and no hash", "rename it: the bridge keeps the state there"
                self._note(file, RedisRefused(said, code="WRONGTYPE", where=self.where(file), hint=hint))
            elif not file.barred:
                if before:
                    self._fine(file)
                yield file, seen, deep[name]
            file.agrees = file.agrees or file.barred

    def where(self, file: ValueFile) -> str:
        """Makes the key of a state's value hash readable for people."""
        return shown(latest_value.key_of(self._keys, file.raw_name))

    def _hear(self, now: float) -> None:
        """Asks client tracking which value hashes changed; now and then, and without tracking, takes all as changed."""
        changed = self._tracking.changed(now) if self._tracking is not None else None
        if changed is None or now >= self._all_at:
            self._all_at = now + ALL
            for file in self._values.files.values():
                file.agrees = False
            return
        before = len(latest_value.key_of(self._keys, b""))
        for key in changed:
            if (changed_file := self._values.files.get(key[before:])) is not None:
                changed_file.agrees = False
