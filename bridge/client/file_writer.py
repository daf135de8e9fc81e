"""The file writer: appends a component's messages to files as the legacy programs do, one line in one write."""

from __future__ import annotations

import time
from collections.abc import Callable

from bridge.client.rotation import Rotation
from bridge.core.errors import ConfigError, TargetError
from bridge.files.appender import Appender
from bridge.kinds.mapping_context import MappingContext

LINE_END_SECONDS = 1.0
LINE_END_PAUSE = 0.01
"""`LINE_END_SECONDS`: how long the file writer waits for the end of a line which another program left unfinished.

`LINE_END_PAUSE`: seconds between two looks.
"""


class FileWriter:
    """Appends the messages of one component to its mapping's files, as the legacy programs do.

    `wait` waits so many seconds.
    """

    def __init__(self, shared: MappingContext, wait: Callable[[float], object], rotation: Rotation) -> None:
        self._shared = shared
        self._rotation = rotation
        self.durable = False
        """Whether a line must be on disk when `append` returns."""
        self._wait = wait
        self._files: dict[str, Appender] = {}
        self._owed: dict[str, tuple[bytes, bytes, int]] = {}
        """By file: the missing rest of a line that a full disk cut off, the whole line, and where the file ended."""

    def path_for(self, role: str) -> str:
        """Names the file to which the file writer appends a component's messages of a role.

        Raises ConfigError: the mapping names none.
        """
        mapping = self._shared.mapping
        if "*" not in mapping.source.path and "?" not in mapping.source.path and "[" not in mapping.source.path:
            return mapping.source.path
        path = mapping.mirror.path.replace("{role}", role) if mapping.mirror is not None else ""
        if not path or self._shared.source_at(str(self._shared.settings.root / path)) is None:
            hint = "give it a mirror.path that names one of the files of source.path"
            raise ConfigError(f"mapping '{mapping.name}' reads many files and names none to append to", hint=hint)
        return path

    def append(self, name: str, line: bytes) -> tuple[Appender, int]:
        """Appends a component's line to a file, under the file's flock where the mapping asks for that lock.

        Returns the appender of the file, and where the line ends in it. Raises TargetError: the message is not written;
        or, as the hint then says, only begun, and its line is finished with the next one.
        """
        file = self._turned(name, len(line) + 1)
        locks = self._shared.mapping.mirror is not None and self._shared.mapping.mirror.lock == "flock"
        while locks and not file.try_lock():
            self._wait(LINE_END_PAUSE)
        try:
            end = self._written(name, file, line + b"\n")
            if self.durable:
                file.to_disk()
            return file, end
        finally:
            if locks:
                file.unlock()

    def _turned(self, name: str, more: int) -> Appender:
        """Returns the appender of the file writer's file, after a rotation where one is due: one program makes it."""
        file = self._file(name)
        if not self._rotation.is_due(file, more, time.time()) or name in self._owed or not file.ends_whole():
            return file
        while not file.try_lock():
            self._wait(LINE_END_PAUSE)
        try:
            if file.still_there():
                self._rotation.rotate(file)
        finally:
            file.unlock()
        return self._file(name)

    def finish(self, name: str) -> None:
        """Finishes the line of the file writer that a full disk cut off, if there is one. Raises TargetError."""
        if name in self._owed:
            self._finish(name, self._file(name))

    def _finish(self, name: str, file: Appender) -> None:
        owed, begun, ends = self._owed.get(name, (b"", b"", -1))
        if owed:
            rest = owed if file.size() == ends else b"\n" * (not file.ends_whole()) + begun
            written = self._append(name, file, rest, begun)
            if written != len(rest):
                raise TargetError("the disk is full", where=str(file.path), hint="make room")
            del self._owed[name]

    def _written(self, name: str, file: Appender, line: bytes) -> int:
        self._finish(name, file)
        waited = 0.0
        while not file.ends_whole():
            if waited >= LINE_END_SECONDS:
                line = b"\n" + line  # the other program left its line unfinished: ours stays whole
                break
            self._wait(LINE_END_PAUSE)
            waited += LINE_END_PAUSE
        if self._append(name, file, line, line) != len(line):
            hint = "make room. The message is not lost: do not append it again, its line is finished with the next one"
            raise TargetError("the disk is full, and the line is begun", where=str(file.path), hint=hint)
        return _end(file)

    def _append(self, name: str, file: Appender, data: bytes, begun: bytes) -> int:
        """Appends a component's bytes to a file in one write, and notes the rest as owed where a full disk cut it off.

        The rest is noted whatever fails then. Returns how many bytes went in. Raises TargetError: nothing went in.
        """
        written = file.append(data)
        if written != len(data):
            self._owed[name] = data[written:], begun, _end(file)
        return written

    def end(self, name: str) -> tuple[int, int]:
        """Returns where a file of the file writer ends now: its inode, and its size in bytes. Raises TargetError."""
        file = self._file(name)
        return file.identity[1], file.size()

    def has(self, name: str, inode: int, since: int, line: bytes) -> bool:
        """Whether the file writer's line stands in the file of an inode from byte `since` on, whatever its name is now.

        Raises OSError.
        """
        path = (self._shared.settings.root / name).resolve()
        for piece in (path, *path.parent.glob("*")):
            if piece.is_file() and piece.stat().st_ino == inode:
                with piece.open("rb") as file:
                    file.seek(since)
                    return b"\n" + line + b"\n" in b"\n" + file.read()
        return False

    def _file(self, name: str) -> Appender:
        held = self._files.get(name)
        if held is not None and held.still_there():
            return held
        if held is not None:
            held.close()
            self._owed.pop(name, None)
        path = (self._shared.settings.root / name).resolve()  # a legacy program writes through a link too
        self._files[name] = Appender(path.parent, path.name)
        return self._files[name]

    def close(self) -> None:
        """Closes all files to which the file writer appends."""
        for file in self._files.values():
            file.close()
        self._files.clear()


def _end(file: Appender) -> int:
    """Returns where the file writer's last write to a file ended, or the file's size where that cannot be told.

    The message is in the file, so a call that fails now does not make it fail.
    """
    try:
        return file.position()
    except TargetError:
        return file.size()
