"""The outbox: keeps a component's messages on disk while nobody knows yet whether Redis has them."""

from __future__ import annotations

import base64
import errno
import fcntl
import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.client.bookmark import still_named
from bridge.core.errors import BridgeError
from bridge.core.logger import logger


@dataclass(slots=True)
class OutboxMessage:
    """A message that waits in an outbox: its number in its session, and its fields: name, value, name, value …

    `free`: it was never sent, so that it may go to a file as well; a message that was sent may be in the stream.
    """

    number: int
    fields: list[bytes]
    free: bool = False

    def to_json(self) -> list[object]:
        """Makes the JSON of a message as one line of the outbox's file holds it."""
        return [self.number, [base64.b64encode(part).decode() for part in self.fields], *([1] if self.free else [])]


TRIES, TRY = 100, 0.01
"""How often, and after how many seconds, a session tries to lock its own outbox."""


class Outbox:
    """The outbox of one session of a component: messages on disk of which nobody knows yet whether Redis has them.

    The messages are in the file `<mapping>.<session>.outbox`, which is made with the first one, before `append`
    returns.
    """

    def __init__(self, folder: Path, mapping: str, session: str = "") -> None:
        self.session = session or secrets.token_hex(6)
        self._folder = folder
        self._path = folder / f"{mapping}.{self.session}.outbox"
        self._fd = -1
        self.waiting: list[OutboxMessage] = []
        self.begun: tuple[int, int, int] | None = None
        """Number of the message that may be in its file already, and that file's inode and size before the write."""

    def add(self, number: int, fields: Sequence[bytes], *, free: bool) -> None:
        """Writes a message into the outbox's file, where it survives a power failure too.

        `free`: it was never sent. Raises BridgeError: it is not kept.
        """
        message = OutboxMessage(number, list(fields), free)
        self._write(message.to_json())
        self.waiting.append(message)

    def sends(self, some: Sequence[OutboxMessage]) -> None:
        """Notes in the outbox that its first waiting messages are sent now, so that they may be in the stream.

        Raises BridgeError: it is not noted, and the messages may not be sent.
        """
        if any(message.free for message in some):
            self._write({"sent": some[-1].number})
            for message in some:
                message.free = False

    def begin(self, number: int, inode: int, size: int) -> None:
        """Notes in the outbox that its first waiting message is written next, to the file of this inode and size.

        All messages before it went there. Raises BridgeError: it is not noted.
        """
        self._write({"begun": number, "inode": inode, "size": size})
        self.begun = number, inode, size

    def _write(self, said: object) -> None:
        raw = json.dumps(said).encode() + b"\n"
        try:
            if self._fd >= 0 and not still_named(self._path, self._fd):
                os.close(self._fd)  # somebody removed it
                self._fd = -1
            if self._fd < 0:
                self._fd = self._made()
                raw = b"".join(map(_line, self.waiting)) + raw
            size = os.fstat(self._fd).st_size
            try:
                if os.write(self._fd, raw) != len(raw):
                    raise BridgeError("the disk is full", where=str(self._path), hint="make room")
                os.fsync(self._fd)
            except (OSError, BridgeError):
                os.ftruncate(self._fd, size)  # a message that is said to be nowhere must not be sent later
                raise
        except OSError as error:
            raise BridgeError(f"cannot be written: {error.strerror}", where=str(self._path)) from None

    def _made(self) -> int:
        """Creates the outbox's file, and returns its descriptor, which holds the lock.

        Raises OSError.

        Another session may look into the file before it is locked, find it empty and remove it: then it is created
        again.
        """
        for _ in range(TRIES):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                time.sleep(TRY)
                continue
            if still_named(self._path, fd):
                return fd
            os.close(fd)
        raise OSError(errno.EWOULDBLOCK, "somebody else holds it")

    def landed(self, count: int) -> None:
        """Removes the outbox's first `count` messages, which have arrived, and empties its file with the last one."""
        del self.waiting[:count]
        self.begun = None
        if not self.waiting and self._fd >= 0:
            os.ftruncate(self._fd, 0)

    def close(self) -> None:
        """Closes the outbox's file: messages in it stay for the component's next session, an empty file is removed."""
        if self._fd < 0:
            return
        if not self.waiting:
            self._path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1

    def take(self) -> bool:
        """Takes over the messages that an ended session of the component left in its outbox.

        Returns False when that session has not ended, or left nothing. A line that is no message is kept in a file
        beside.
        """
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            *lines, torn = self._path.read_bytes().split(b"\n")
            if torn:  # `append` never promised a torn line
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - len(torn))
        except OSError:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1
            return False
        for line in lines:
            try:
                said = json.loads(line)
                if isinstance(said, dict):
                    self._noted(said)
                    continue
                number, fields, *free = said
                self.waiting.append(OutboxMessage(int(number), [base64.b64decode(part) for part in fields], bool(free)))
            except (ValueError, TypeError, KeyError):
                logger.warning("%s holds a line that is no message, it is kept beside: %.200r", self._path, line)
                with self._path.with_suffix(".damaged").open("ab") as aside:
                    aside.write(line + b"\n")
        if not self.waiting:
            self.close()
        return bool(self.waiting)

    def _noted(self, said: dict[str, Any]) -> None:
        """Applies a note of an ended session to its outbox: which messages were sent, or begun in a file.

        Raises KeyError, ValueError, TypeError.
        """
        if "sent" in said:
            for message in self.waiting:
                message.free = message.free and message.number > int(said["sent"])
            return
        self.begun = int(said["begun"]), int(said["inode"]), int(said["size"])
        self.waiting = [message for message in self.waiting if message.number >= self.begun[0]]


def left_behind(folder: Path, mapping: str, own: str) -> list[Outbox]:
    """Takes over the outboxes that earlier sessions of a component left in `folder`; returns those with messages.

    The outbox that was written to last comes last.
    """
    found = []
    for path in sorted(folder.glob(f"{mapping}.*.outbox"), key=_written):
        session = path.name.split(".")[-2]
        if session != own and (outbox := Outbox(folder, mapping, session)).take():
            found.append(outbox)
    return found


def _written(path: Path) -> int:
    """Returns when an outbox's file was written to last, in ns since 1970; 0 where that cannot be told."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _line(message: OutboxMessage) -> bytes:
    return json.dumps(message.to_json()).encode() + b"\n"
