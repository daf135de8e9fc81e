"""The two sides a component reads from, as one thing: messages are taken, given one by one, and acknowledged."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from bridge.client.bookmark import Bookmark, still_named
from bridge.client.file_reader import DeliveredMessage, FileReader
from bridge.client.group_reader import DeliveredEntry, GroupGone, GroupReader
from bridge.client.message import Message, made
from bridge.core.errors import BridgeError, NotYet, RedisLost, RedisRefused
from bridge.core.logger import logger
from bridge.core.model import EntryId, format_id, paired
from bridge.kinds.mapping_context import MappingContext
from bridge.streams.connect import Connection


class ReadSide(Protocol):
    """Where a component reads. What it was given and did not acknowledge, the next one made gives again."""

    name: str

    def take(self) -> Sequence[tuple[Message, object]]:
        """The next messages, each with what `done` wants; none when there is nothing new for now."""
        ...

    def given(self, token: object) -> bool:
        """The component is about to meet that message; False: it is somebody else's by now."""
        ...

    def done(self, token: object) -> None:
        """The component is done with that message."""
        ...

    def close(self, *, clean: bool = True) -> None:
        """Ends it. `clean`: nothing was given that is not acknowledged."""
        ...


class FileSide:
    """The files. The bookmark's lock is held as long as it lives, and by its maker afterwards."""

    name = "file"

    def __init__(self, shared: MappingContext, bookmark: Bookmark, clock: Callable[[], float], *, at_end: bool) -> None:
        self._bookmark = bookmark
        marks = bookmark.marks
        fresh = not marks.places
        if marks.following:  # it was killed: the next message of each file may have been given
            marks.unclean = sorted(marks.places)
        self._reader = FileReader(shared, bookmark, clock)
        if fresh and at_end:
            self._reader.begin_at_end()
        marks.following = marks.begun = True
        bookmark.save()

    def take(self) -> Sequence[tuple[Message, object]]:
        """As the protocol says. Raises SourceError."""
        return [(given.message, given) for given in self._reader.take()]

    def given(self, token: object) -> bool:
        """As the protocol says; the bookmark knows that somebody follows."""
        return True

    def done(self, token: object) -> None:
        """As the protocol says. Raises BridgeError: the bookmark cannot be written."""
        if not isinstance(token, DeliveredMessage):
            raise TypeError(token)
        self._reader.done(token)

    def close(self, *, clean: bool = True) -> None:
        """As the protocol says."""
        self._reader.close()
        self._bookmark.marks.following = not clean
        self._bookmark.save()


class InFlight:
    """What this process knows of the entries that it fetched, through a lost connection too.

    `unmet`: fetched and not given to the component yet. `done`: acknowledged, and Redis has not confirmed it. `last`:
    the one that was acknowledged last.
    """

    def __init__(self) -> None:
        self.unmet: set[EntryId] = set()
        self.done: list[EntryId] = []
        self.last: EntryId | None = None


class GroupSide:
    """The stream, through the component's consumer group."""

    name = "redis"

    def __init__(
        self, connection: Connection, stream: bytes, component: str, worker: str, claim_ms: int, most: int, aside: Path,
        in_hand: InFlight, first: str | None, remedy: str,
    ) -> None:  # fmt: skip
        self._reader = GroupReader(connection, stream, component, worker, claim_ms)
        self._most = most
        self._aside = aside
        self._hand = in_hand
        self._first = True
        self._begin = first
        self._remedy = remedy
        self._claim_ms = claim_ms
        self._stale_at = 0.0
        self._waiting: set[EntryId] = set()
        self._lost: set[EntryId] = set()

    def take(self) -> Sequence[tuple[Message, object]]:
        """As the protocol says. Raises RedisLost, RedisRefused, NotYet: the group is not there."""
        try:
            if self._first:
                found = self._mine(self._reader.own())
                self._first = False
                if found:
                    return self._messages(found)
            found = self._reader.take()
        except GroupGone:
            if self._begin is None:
                said = "its consumer group is gone, and with it how far it has read"
                raise NotYet(f"{said}; {self._remedy}") from None
            self._reader.begin(self._begin)
            return []
        self._hand.done.clear()  # `take` has read what the server said of them
        self._hand.unmet.update(delivered.id for delivered in found if not delivered.before)
        return self._messages(found)

    def _mine(self, found: list[DeliveredEntry]) -> list[DeliveredEntry]:
        """Without those that this process is done with: their acknowledgement was lost."""
        done = set(self._hand.done)
        for delivered in found:
            if delivered.id in done:
                self._reader.done(delivered.id)
        mine = [delivered_entry for delivered_entry in found if delivered_entry.id not in done]
        return [
            replace(delivered_entry, before=0) if delivered_entry.id in self._hand.unmet else delivered_entry
            for delivered_entry in mine
        ]

    def _messages(self, found: list[DeliveredEntry]) -> list[tuple[Message, object]]:
        messages: list[tuple[Message, object]] = []
        self._waiting, self._lost = {delivered_entry.id for delivered_entry in found}, set()
        self._refresh()
        for delivered in found:
            if delivered.before >= self._most:
                self._set_aside(delivered)
                continue
            position = format_id(delivered.id).decode()
            went_back = not delivered.before and self._hand.last is not None and delivered.id <= self._hand.last
            again = delivered.before > 0 or (
                went_back and delivered.id not in self._hand.unmet
            )  # Redis lost the group's newest state
            messages.append((made(paired(delivered.fields), position, redelivered=again), delivered))
        return messages

    def given(self, token: object) -> bool:
        """As the protocol says. Raises RedisLost."""
        if not isinstance(token, DeliveredEntry):
            raise TypeError(token)
        self._waiting.discard(token.id)
        if time.monotonic() >= self._stale_at:  # the loop is slow: another worker may have taken over what waits here
            kept = self._reader.mine([token.id, *sorted(self._waiting)])
            self._lost |= ({token.id} | self._waiting) - kept
            self._refresh()
        if token.id in self._lost:
            self._hand.unmet.discard(token.id)
            return False
        if token.counted != token.before + 1:
            self._reader.counts([token.id], token.before + 1)
        self._hand.unmet.discard(token.id)
        return True

    def _refresh(self) -> None:
        self._stale_at = time.monotonic() + self._claim_ms / 3000

    def _set_aside(self, delivered: DeliveredEntry) -> None:
        """It was given so often that it seems to end its readers: kept in a file, and given no more."""
        fields = [base64.b64encode(value).decode() for value in delivered.fields]
        line = json.dumps(
            {"entry": format_id(delivered.id).decode(), "times": delivered.before, "fields_base64": fields}
        )
        self._aside.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._aside.open("a") as file:
            file.write(line + "\n")
        said = "entry %d-%d was delivered %d times and never acknowledged: set aside in %s"
        logger.warning(said, *delivered.id, delivered.before, self._aside)
        self._reader.done(delivered.id)

    def done(self, token: object) -> None:
        """As the protocol says. Raises RedisLost: it is acknowledged when there is a connection again."""
        if not isinstance(token, DeliveredEntry):
            raise TypeError(token)
        self._hand.done.append(token.id)
        self._hand.last = token.id
        self._reader.done(token.id)

    def close(self, *, clean: bool = True) -> None:
        """As the protocol says. What the component has not met counts as not given."""
        try:
            if self._hand.unmet:
                self._reader.counts(sorted(self._hand.unmet), 0)
            self._reader.settle()
            self._hand.unmet.clear()
            self._hand.done.clear()
        except (RedisLost, RedisRefused) as error:
            logger.debug("what was fetched counts as given: %s", error)
        self._reader.close()


def worker_slot(folder: Path) -> tuple[int, int]:
    """The lowest free number of a worker, and the descriptor that holds it. Raises BridgeError."""
    for number in range(1, 1000):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        held = os.open(folder / f"worker-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(held)
            continue
        if still_named(folder / f"worker-{number}.lock", held):  # `bridge purge` removes what nobody holds
            return number, held
        os.close(held)
    raise BridgeError("a thousand workers of this component run already", where=str(folder))
