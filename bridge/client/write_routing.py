"""Write routing: sends a component's messages to file or stream, and to the file while Redis is away (DESIGN §6.6)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Condition

from bridge.client.carried_still import FileVoucher
from bridge.client.file_writer import FileWriter
from bridge.client.outbox import Outbox
from bridge.client.rotation import Rotation
from bridge.client.stream_writer import StreamAppender
from bridge.core.codecs import Codec
from bridge.core.codecs.multiline import MultilineCodec
from bridge.core.errors import BridgeError, ConfigError, RedisLost, RedisRefused, TargetError
from bridge.core.logger import logger
from bridge.core.model import Checkpoint, Fingerprint, Row, hex_digest, paired, shown
from bridge.files.generation import TAIL
from bridge.kinds.mapping_context import MappingContext
from bridge.streams.components import BOTH, FILE, REDIS, WRITES, ComponentModes
from bridge.streams.connect import Connection

HEARD = 5.0
"""Seconds without a word from Redis after which its last word may not hold any more: a mapping may be retired."""

PAUSED = 10.0
"""Seconds that a message waits at most for a switch. A switch of writes holds for 5 s from its operator's last word."""


@dataclass(slots=True)
class LastFileLine:
    """The last line that write routing put in a file instead of the stream: the file's descriptor, the line's end."""

    name: str
    fd: int
    end: int

    def passed(self, at: Fingerprint) -> bool:
        """Whether a cursor with the digests `at` stands in the file of write routing's last line, and behind that."""
        back = min(TAIL, at.offset)
        return (
            at.offset >= self.end
            and hex_digest(os.pread(self.fd, at.head_len, 0)) == at.head
            and hex_digest(os.pread(self.fd, back, at.offset - back)) == at.tail
        )


class WriteRouting:
    """Routes one component's messages to the file or to the stream, as it is switched. Any thread may call it."""

    def __init__(
        self, shared: MappingContext, component: str, folder: Path, dial: Callable[[], Connection],
        modes: ComponentModes, vouched: FileVoucher, since: Callable[[], float], rotation: Rotation,
    ) -> None:  # fmt: skip
        self.mode = modes.writes
        self._since = since
        """Seconds since Redis answered last."""
        self._dead = modes.retired
        self._vouched = vouched
        self._shared = shared
        self._component = component
        self._turn = Condition()
        self._file = FileWriter(shared, time.sleep, rotation)
        self._stream = StreamAppender(
            shared.keys, folder, component, shared.mapping.name, dial,
            replicas=shared.settings.replicas, replicas_timeout=shared.settings.replicas_timeout,
        )  # fmt: skip
        self._codecs: dict[str, Codec] = {}
        self._paused = ""
        self._within = False
        """Whether a message is being routed now."""
        self._sure = False
        """Whether Redis has said where messages go; `_behind` remembers what went to the log before."""
        self._behind: LastFileLine | None = None
        self._said = ("", False)
        """Why messages last went elsewhere than they should, and whether to the outbox."""
        self._why = ""
        """Why the outbox could not be emptied last; empty: it could."""

    def append(self, role: str, values: dict[bytes, bytes], *, durable: bool = False) -> None:
        """Routes one message of a component to the file, the stream, or the outbox on disk.

        `durable`: it is on a disk on return, of this machine or of the server; or on the replicas that are waited for.
        Raises Unfit: the server cannot say so; TargetError, ConfigError, BridgeError: the message is nowhere.
        """
        with self._turn:
            if not self._turn.wait_for(lambda: not self._paused, PAUSED):
                self._paused = ""  # the operator of the switch is gone, and Redis too
            if self._within:  # the lock lets the same thread in again
                said = "append was called within append, by a signal handler: the message is nowhere"
                raise BridgeError(said, hint="let the handler set a flag, or put it into a queue.SimpleQueue")
            self._within = True
            try:
                self._route(role, values, durable=durable)
            finally:
                self._within = False

    def _route(self, role: str, values: dict[bytes, bytes], *, durable: bool) -> None:
        """Routes one message of a component to where it goes now; only under the lock."""
        name, row, line = self._row(role, values)
        fields = [part for pair in zip(self._codec(name).fields, row, strict=True) for part in pair]
        self._file.durable = durable
        if durable and self.mode != FILE:
            self._stream.be_durable()
        if self.mode == REDIS:
            self._to_stream(name, fields, line)
        elif not self._sure or self._since() > HEARD:
            self._meanwhile(name, fields, line, "Redis does not say where they go")
        elif not self._emptied():
            self._stream.keep(fields)  # after the messages that wait already
        else:
            self._file.append(name, line)
            if self.mode == BOTH:
                self._beside(name, fields)

    def _to_stream(self, name: str, fields: list[bytes], line: bytes) -> None:
        if self._behind is not None and not self._dead and not self._caught_up(self._behind):
            self._meanwhile(name, fields, line, "the stream has not what went to the log")
            return
        try:
            self._stream.send(fields)
        except (RedisLost, RedisRefused) as error:
            self._meanwhile(name, fields, line, str(error))

    def _beside(self, name: str, fields: list[bytes]) -> None:
        """Sends a dual write's message to the stream, beside its line in the file; `bridge repair` adds what fails."""
        try:
            self._stream.send(fields)
        except (RedisLost, RedisRefused) as error:
            logger.warning("%s: %s; a message stands in %s alone", self._component, error, name)

    def _meanwhile(self, name: str, fields: list[bytes], line: bytes, why: str) -> None:
        """Writes a component's message that Redis cannot get now to the log, if that is carried, or to the outbox."""
        waits = bool(self._stream.waiting) or self._dead or not self._vouched.alive()
        if (why, waits) != self._said:
            self._said = why, waits
            where = "wait on disk" if waits else f"go to {name} meanwhile"
            logger.info("%s: %s; its messages %s", self._component, why, where)
        if waits:
            self._stream.keep(fields)
        else:
            self._to_log(name, line)

    def _codec(self, name: str) -> Codec:
        if name not in self._codecs:
            self._codecs[name] = self._shared.mapping.codec(name)
        return self._codecs[name]

    def _row(self, role: str, values: dict[bytes, bytes]) -> tuple[str, Row, bytes]:
        """Makes from a message that a component writes the name of its file, its row and its line.

        Raises TargetError: the message could be no line there; ConfigError: the mapping has no such field.
        """
        name = self._file.path_for(role)
        codec = self._codec(name)
        unknown = [field.decode() for field in values if field not in codec.fields]
        if unknown:
            raise ConfigError(f"messages of mapping '{self._shared.mapping.name}' have no field '{unknown[0]}'")
        row = tuple(values.get(field, b"") for field in codec.fields)
        line = codec.whole(row) if isinstance(codec, MultilineCodec) else codec.encode(row)
        if isinstance(line, str):
            tried = ", ".join(
                f"{field.decode()} {shown(value, 60)}" for field, value in zip(codec.fields, row, strict=True)
            )
            raise TargetError(f"the message makes no line: {line}", where=name, hint=f"tried: {tried}")
        mapping, limit = self._shared.mapping, self._shared.mapping.format.max_line_bytes
        if len(line) > limit:
            raise TargetError(f"the message makes a line of {len(line)} bytes, the limit is {limit}", where=name)
        named = mapping.mirror is not None and "{role}" in mapping.mirror.path
        if named and self.mode != FILE and role not in self._shared.settings.roles:
            hint = f'declare it in bridge.toml: [components.{self._component}] roles = ["{role}"]'
            raise TargetError(f"role '{role}' is not declared, so the mirror would refuse it", where=name, hint=hint)
        return name, row, line

    def _to_log(self, name: str, line: bytes) -> None:
        file, end = self._file.append(name, line)
        if self._behind is not None:
            os.close(self._behind.fd)
        self._behind = LastFileLine(name, os.dup(file.fd), end)

    def _caught_up(self, behind: LastFileLine) -> bool:
        """Whether the stream has the lines that write routing put in the file: the checkpoint has passed the last."""
        keys = self._shared.keys
        try:
            connection = self._stream.connect()
            stored = connection.call("HGET", keys.checkpoint, os.fsencode(behind.name))
            passed = bool(stored) and behind.passed(Checkpoint.from_json(stored).at)
            if not passed:
                closed = connection.call("HVALS", keys.generations)
                passed = any(behind.passed(Fingerprint.from_json(value)) for value in closed)
        except (RedisLost, RedisRefused):
            self._stream.disconnect()
            return False
        if passed:
            os.close(behind.fd)
            self._behind = None
        return passed

    def switched(self, modes: ComponentModes, paused: dict[str, str]) -> None:
        """Routes a component's writes as Redis says from now on, or pauses for a switch, once the outbox is empty."""
        switch = modes.switch
        with self._turn:
            if switch is not None and switch.side == WRITES:
                if self._emptied():
                    self._paused = paused[WRITES] = switch.token
                return
            self.mode, self._paused, self._sure, self._dead = modes.writes, "", True, modes.retired
            paused.pop(WRITES, None)
            self._turn.notify_all()

    def tend(self) -> int:
        """Empties a component's outbox, if nobody writes just now, and returns how many messages wait still."""
        if self._stream.waiting and self._turn.acquire(blocking=False):
            try:
                self._emptied()
            finally:
                self._turn.release()
        return self._stream.waiting

    def _emptied(self) -> bool:
        """Moves a component's messages from the outbox to where it writes now; returns whether none waits any more."""
        try:
            for box in self._stream.boxes:
                if box.begun is not None and self._arrived(box):
                    box.landed(1)
                box.begun = None
            if self.mode == FILE:
                self._into_files()
        except (BridgeError, OSError) as error:
            if str(error) != self._why:
                self._why = str(error)
                logger.warning("%s: %s; messages wait on disk", self._component, error)
            return False
        self._why = ""
        return self._stream.drain()

    def _into_files(self) -> None:
        """Writes the messages of a component's outbox to the files, each message once even after a crash.

        What may be in the stream already goes there. Raises BridgeError.
        """
        for box in self._stream.boxes:
            while box.waiting:
                first = box.waiting[0]
                if not first.free:
                    self._stream.send_first(box, [first])
                    continue
                name, line = self._line(first.fields)
                box.begin(first.number, *self._file.end(name))
                self._file.append(name, line)
                box.landed(1)

    def _arrived(self, box: Outbox) -> bool:
        """Whether the file has the outbox's message that an earlier session was writing when it was killed.

        Raises BridgeError, OSError.
        """
        begun, first = box.begun, next(iter(box.waiting), None)
        if begun is None or first is None or first.number != begun[0]:
            return False
        name, line = self._line(first.fields)
        self._file.finish(name)  # a full disk may have cut it off
        return self._file.has(name, begun[1], begun[2], line)

    def _line(self, fields: Sequence[bytes]) -> tuple[str, bytes]:
        """Makes from the fields of an outbox's message the name of its file and its line, to write it there.

        Raises TargetError, ConfigError.
        """
        values = paired(fields)
        name, _, line = self._row(values[b"role"].decode(errors="replace"), values)
        return name, line

    def close(self) -> None:
        """Ends a component's write routing: empties the outbox once more if Redis answers, and closes the files."""
        with self._turn:
            if self._stream.waiting and (self._sure or self.mode == REDIS):
                self._emptied()
            self._stream.close()
            self._file.close()
            if self._behind is not None:
                os.close(self._behind.fd)
                self._behind = None
