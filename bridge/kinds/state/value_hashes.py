"""The hashes of one mapping's latest values: which of them are to be looked at, and what they say.

A hash that agrees with its file is looked at again when one of them changes: the server tells. Where it does not, all
are looked at, again and again.
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
"""Seconds between two looks at whether a hash still holds what it was seen to, where the server does not tell."""

ALL = 60.0
"""Seconds between two looks at all hashes, where it does."""

SLOWLY = 1.0
"""Seconds for each MiB of a latest value that is too long to be hashed in passing, and is read to be compared."""


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
        """When the next value that is too long to be hashed in passing is looked at."""

    def attach(self, dial: Callable[[], Connection]) -> None:
        """Asks the server to tell of every change of a latest value's hash, if it does that. Raises RedisLost."""
        self.detach()
        try:
            self._tracking = ClientTracking(dial(), latest_value.key_of(self._keys, b""))
        except RedisRefused as error:
            logger.info("%s: all values are looked at again and again: %s", self._keys.stream.decode(), error)
        self.anew()

    def detach(self) -> None:
        """The server need not tell of latest values' hashes any more."""
        if self._tracking is not None:
            self._tracking.close()
        self._tracking = None

    def anew(self) -> None:
        """All latest values' hashes are to be looked at, whatever they said before."""
        self._all_at = self._slow_at = 0.0

    def looked(self, connection: Connection) -> Iterator[tuple[ValueFile, SeenValue, bool]]:
        """Yields files of latest values whose hashes are due, and what these say; True: their data were asked for too.

        Notes of a key that it holds no hash. Raises RedisLost, RedisRefused.
        """
        now, files = self._clock(), self._values.files
        self._hear(now)
        deep = {
            name: file.size <= IN_PASSING and (self._tracking is not None or now >= file.deep_at)
            for name, file in sorted(files.items()) if not file.agrees
        }  # fmt: skip
        large = [files[name] for name in deep if files[name].size > IN_PASSING]
        if large and now >= self._slow_at:  # one after the other: they go over the connection
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
        """The key of a latest value's hash, for people."""
        return shown(latest_value.key_of(self._keys, file.raw_name))

    def _hear(self, now: float) -> None:
        """Takes in which hashes the server says were changed; now and then, and where it does not tell, all."""
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
