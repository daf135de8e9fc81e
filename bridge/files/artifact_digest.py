"""Tells an artifact's type, by content and then by name, and computes its digest, for a large file in a thread.

A file is opened only if it is a regular one: never a device, a FIFO or a socket, and not through a link.
"""

from __future__ import annotations

import hashlib
import mimetypes
import os
import queue
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread, get_native_id
from typing import NamedTuple

from bridge.files.folder import FileFacts, path_of

SNIFFED_BYTES = 1 << 13
"""How many of an artifact's first bytes are read to tell its type."""

HASH_BLOCK = 1 << 20

INLINE = 1 << 20
"""The size in bytes up to which an artifact is hashed at once, with no thread for it: a millisecond."""

SURE_CONFIDENCE = 0.8
"""The confidence from which on the signature of an artifact's type counts.

puremagic gives 0.9 to most, and less where only a name was matched.
"""

MODELS = (".gguf", ".safetensors", ".onnx", ".pt", ".pth", ".ckpt", ".h5", ".keras", ".tflite", ".mlmodel", ".joblib")
DATA = (
    "application/json", "application/x-ndjson", "text/csv", "text/tab-separated-values", "application/zip",
    "application/gzip", "application/x-gzip", "application/x-tar", "application/x-sqlite3", "application/vnd.sqlite3",
    "application/xml", "application/x-bzip2", "application/x-xz", "application/zstd", "application/yaml",
)  # fmt: skip
DATA_NAMES = (".jsonl", ".parquet", ".npy", ".npz", ".arrow", ".feather", ".db", ".sqlite", ".toml", ".yaml", ".yml")


class KnownDigest(NamedTuple):
    """The known digest of an artifact: the facts of its file, its type, and its content's SHA-256 in hex."""

    facts: FileFacts
    type: str
    sha256: str


def type_of(head: bytes, name: str) -> str:
    """Tells whether an artifact is image, text, audio, video, model, data or other: by first bytes, then by name.

    Pure.
    """
    suffix = Path(name).suffix.lower()
    if head[:4] == b"GGUF" or (head[8:10] == b'{"' and head[5:8] == b"\0\0\0") or suffix in MODELS:
        return "model"
    mime = _signed(head, name) or mimetypes.guess_type(name)[0] or ""
    family = mime.partition("/")[0]
    if mime in DATA or suffix in DATA_NAMES:
        return "data"
    if family in ("image", "text", "audio", "video"):
        return family
    return "other" if mime or not _is_text(head) else "text"


def _signed(head: bytes, name: str) -> str:
    """Returns the MIME type that a signature in an artifact's first bytes tells; empty: none does."""
    import puremagic

    try:
        found = puremagic.magic_string(head, Path(name).name) if head else []
    except (puremagic.PureError, ValueError):
        return ""
    return next((match.mime_type for match in found if match.confidence >= SURE_CONFIDENCE and match.mime_type), "")


def _is_text(head: bytes) -> bool:
    try:
        text = (head[: len(head) - 3] if len(head) == SNIFFED_BYTES else head).decode()
    except UnicodeDecodeError:
        return False
    return bool(text) and not any(c < " " and c not in "\t\n\r\f\x1b" for c in text)


def open_inside(path: bytes) -> int | None:
    """Opens an artifact's file, a regular one, at a path without links and returns its descriptor.

    None: there is none, or it is something else by now. What counts is where the file lies that was opened: a folder
    may have become a link since the path was resolved. Raises OSError.
    """
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # to open a FIFO would wake its writer
            return None
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    meant = False
    try:
        meant = stat.S_ISREG(os.fstat(fd).st_mode) and path_of(fd, path) == path
    finally:
        if not meant:
            os.close(fd)
    return fd if meant else None


def inside(root: bytes, path: bytes) -> bytes | None:
    """Resolves all links in an artifact's path, which should lie inside the root; None: outside, or nobody can tell."""
    try:
        top, real = os.path.realpath(root), os.path.realpath(path)
    except (OSError, ValueError):
        return None
    return real if real == top or real.startswith(top.rstrip(b"/") + b"/") else None


def looked_at(real: bytes | None, path: bytes) -> tuple[str, str]:
    """Says whether an artifact is present, missing or outside the root, and of which type it is.

    `real` is its path without links; None: outside. The type is told by its first bytes if it is inside, else by its
    name.
    """
    name = os.fsdecode(path)
    if real is None:
        return "outside", type_of(b"", name)
    try:
        fd = open_inside(real)
    except OSError:
        return "missing", type_of(b"", name)
    if fd is None:
        return "missing", type_of(b"", name)
    try:
        return "present", type_of(os.read(fd, SNIFFED_BYTES), name)
    except OSError:
        return "present", type_of(b"", name)
    finally:
        os.close(fd)


def hashed(path: bytes, stop: Callable[[], bool] = lambda: False) -> KnownDigest | None:
    """Hashes the whole file of an artifact and returns its facts, type and SHA-256 digest.

    Returns None: it is gone, was changed meanwhile, or `stop` said so. Raises OSError.
    """
    fd = open_inside(path)
    if fd is None:
        return None
    try:
        before, digest, head = FileFacts.of(os.fstat(fd)), hashlib.sha256(), b""
        while piece := os.read(fd, HASH_BLOCK):
            head = head or piece[:SNIFFED_BYTES]
            digest.update(piece)
            if stop():
                return None
        if FileFacts.of(os.fstat(fd)) != before:
            return None
    finally:
        os.close(fd)
    return KnownDigest(before, type_of(head, os.fsdecode(path)), digest.hexdigest())


class DigestThread:
    """Hashes large artifacts one after the other, in a thread that gives way to all others."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[tuple[bytes, FileFacts] | None] = queue.SimpleQueue()
        self._done: dict[bytes, tuple[FileFacts, KnownDigest | OSError | None]] = {}
        self._pending: dict[bytes, FileFacts] = {}
        self._ended = Event()
        self._thread: Thread | None = None

    def ask(self, path: bytes, facts: FileFacts) -> KnownDigest | OSError | None:
        """Asks the hashing thread for the digest of an artifact whose file has these facts; None: not yet, ask again.

        An OSError that is returned says that the file cannot be read.
        """
        found = self._done.get(path)
        if found is not None:
            del self._done[path]
            if found[0] == facts and found[1] is not None:
                return found[1]
        if self._pending.get(path) != facts:
            self._pending[path] = facts
            self._asked.put((path, facts))
            if self._thread is None:
                self._thread = Thread(target=self._work, name="hasher", daemon=True)
                self._thread.start()
        return None

    def _work(self) -> None:
        if sys.platform == "linux":  # a thread has a priority of its own there
            os.setpriority(os.PRIO_PROCESS, get_native_id(), 10)
        while (asked := self._asked.get()) is not None and not self._ended.is_set():
            path, facts = asked
            try:
                found: KnownDigest | OSError | None = hashed(path, self._ended.is_set)
            except OSError as error:
                found = error
            self._pending.pop(path, None)
            self._done[path] = (facts, found)

    def close(self) -> None:
        """Ends the thread that hashes large artifacts, in the middle of a file if need be."""
        self._ended.set()
        self._asked.put(None)
        if self._thread is not None:
            self._thread.join()
