"""The two sides that a component reads from, files and stream, with one interface: take, give, acknowledge messages."""

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
from bridge.client.group_reader import GROUP_BLOCK_MS, DeliveredEntry, GroupGone, GroupReader
from bridge.client.message import Message, made
from bridge.client.start import BEGINNING, Start
from bridge.core.errors import BridgeError, NotYet, RedisLost, RedisRefused
from bridge.core.logger import logger
from bridge.core.model import EntryId, format_id, paired
from bridge.core.wording import counted
from bridge.kinds.mapping_context import MappingContext
from bridge.streams.connect import Connection


class ReadSide(Protocol):
    """Interface of a side that a component reads from, files or stream: messages are taken, given, acknowledged.

    Messages that a read side gave and that were not acknowledged, the next one made gives again.
    """

    name: str

    def take(self) -> Sequence[tuple[Message, object]]:
        """Takes the next messages from a component's read side, each with its token for `done`; none if none is new."""
        ...

    def given(self, token: object) -> bool:
        """Tells a read side that the component is about to meet a message; False if another worker has it by now."""
        ...

    def withdrawn(self, token: object) -> None:
        """Tells a read side that the component has not met the message given last: it comes again as new."""
        ...

    def done(self, token: object) -> None:
        """Acknowledges a message to a read side: the component is done with it."""
        ...

    def close(self, *, clean: bool = True) -> None:
        """Closes a component's read side. `clean`: nothing was given that is not acknowledged."""
        ...


class FileSide:
    """The file side of a component's reads: messages from the files, acknowledged in the bookmark.

    The bookmark's lock is held as long as the side lives, and by its maker afterwards.
    """

    name = "file"

    def __init__(self, shared: MappingContext, bookmark: Bookmark, clock: Callable[[], float], start: Start) -> None:
        self._bookmark = bookmark
        marks = bookmark.marks
        # Where the first start failed, the place to begin at may be said anew.
        fresh = not marks.begun and not any(place.is_moved for place in marks.places.values())
        if marks.following:  # a worker was killed: the next message of each file may have been given
            marks.unclean = sorted(marks.places)
        self._reader = FileReader(shared, bookmark, clock)
        if fresh and start != BEGINNING:
            try:
                self._reader.begin(start)
            finally:
                self._reader.close()
            self._reader = FileReader(shared, bookmark, clock)
        if fresh and (much := self._reader.waiting()):
            said = "%s reads for the first time, and first %s of history in %s; `start` says another place"
            logger.warning(said, bookmark.component, counted(much, "byte"), shared.mapping.source.path)
        marks.following = marks.begun = True
        bookmark.save()

    def take(self) -> Sequence[tuple[Message, object]]:
        """Takes the next messages of a component's read side from the files. Raises SourceError."""
        return [(given.message, given) for given in self._reader.take()]

    def given(self, token: object) -> bool:
        """Returns True for every message of the file side: the bookmark knows already that the component reads."""
        return True

    def withdrawn(self, token: object) -> None:
        """Does nothing for a message of the file side: the bookmark stands before it."""

    def done(self, token: object) -> None:
        """Acknowledges a message of the file side in the component's bookmark.

        Raises BridgeError: the bookmark cannot be written.
        """
        if not isinstance(token, DeliveredMessage):
            raise TypeError(token)
        self._reader.done(token)

    def close(self, *, clean: bool = True) -> None:
        """Closes the files of a component's file side, and notes in the bookmark whether all was acknowledged."""
        self._reader.close()
        self._bookmark.marks.following = not clean
        self._bookmark.save()


class InFlight:
    """The entries in flight that this process fetched through its read sides, remembered through a lost connection too.

    `unmet`: fetched and not given to the component yet. `done`: acknowledged, and Redis has not confirmed it. `last`:
    the one that was acknowledged last.
    """

    def __init__(self) -> None:
        self.unmet: set[EntryId] = set()
        self.done: list[EntryId] = []
        self.last: EntryId | None = None

    def confirm(self, dial: Callable[[], Connection], stream: bytes, group: str) -> None:
        """Sends once more the acknowledgements of a component's entries that were lost with its last connection."""
        if not self.done:
            return
        try:
            connection = dial()
            connection.call("XACK", stream, group, *(format_id(entry_id) for entry_id in self.done))
            connection.close()
            self.done.clear()
        except (RedisLost, RedisRefused) as error:
            logger.debug("%s: %d acknowledgements have not arrived: %s", group, len(self.done), error)


class GroupSide:
    """The stream side of a component's reads: messages from its consumer group, acknowledged in that group."""

    name = "redis"

    def __init__(
        self, connection: Connection, stream: bytes, component: str, worker: str, claim_ms: int, most: int, aside: Path,
        in_hand: InFlight, first: str | None, remedy: str, block_ms: int = GROUP_BLOCK_MS,
    ) -> None:  # fmt: skip
        self._reader = GroupReader(connection, stream, component, worker, claim_ms, block_ms)
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
        """Takes the next messages of a component's read side from its consumer group.

        A component that was never here has its group made. Raises RedisLost, RedisRefused; NotYet: the group is gone.
        """
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
        self._hand.done.clear()  # `take` has read the server's replies to these
        self._hand.unmet.update(delivered.id for delivered in found if not delivered.before)
        return self._messages(found)

    def _mine(self, found: list[DeliveredEntry]) -> list[DeliveredEntry]:
        """Drops the entries with which this read side's process is done, and acknowledges them once more.

        Their acknowledgement was lost. Entries that the component has not met yet count as never given.
        """
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
        """Tells the consumer group that the read side gives an entry now; False when another worker took it over.

        Raises RedisLost.
        """
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

    def withdrawn(self, token: object) -> None:
        """Tells the consumer group, as the read side closes, that the component has not met an entry."""
        if not isinstance(token, DeliveredEntry):
            raise TypeError(token)
        self._hand.unmet.add(token.id)

    def _refresh(self) -> None:
        self._stale_at = time.monotonic() + self._claim_ms / 3000

    def _set_aside(self, delivered: DeliveredEntry) -> None:
        """Sets aside in a file an entry that the read side gave too often, and acknowledges it in the group.

        An entry that was given so often seems to end its readers.
        """
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
        """Acknowledges an entry of the read side in the component's consumer group.

        Raises RedisLost: the entry is acknowledged when there is a connection again.
        """
        if not isinstance(token, DeliveredEntry):
            raise TypeError(token)
        self._hand.done.append(token.id)
        self._hand.last = token.id
        self._reader.done(token.id)

    def close(self, *, clean: bool = True) -> None:
        """Closes the read side of a consumer group; entries that the component has not met count as not given."""
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
    """Locks the lowest free worker number of a component that reads; returns the number and the lock's descriptor.

    Raises BridgeError.
    """
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
