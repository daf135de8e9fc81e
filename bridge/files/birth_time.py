"""Reads a file's birth time: an inode's number may be given to the next file, the time of birth is not.

Linux tells it by statx(2), macOS by stat(2); a file system that keeps none says 0.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import sys
from typing import Any

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_BIRTH = 0x800
"""STATX_BTIME: the bit by which statx is asked for the time of birth, and says that it gave it."""

_MASK_AT, _BIRTH_AT = 0, 0x50
"""The offsets in struct statx of the mask, and of the birth time (seconds, then nanoseconds)."""


@functools.cache
def _statx() -> Any:
    return getattr(ctypes.CDLL(None, use_errno=True), "statx", None) if sys.platform == "linux" else None


def born(file: int | str) -> int:
    """Returns the birth time of the file behind a descriptor or a path, in ns since 1970; 0 where nobody can tell."""
    if (statx := _statx()) is not None:
        buffer = ctypes.create_string_buffer(256)
        where, name, flags = (file, b"", _AT_EMPTY_PATH) if isinstance(file, int) else (_AT_FDCWD, os.fsencode(file), 0)
        if statx(where, name, flags, _BIRTH, buffer) or not struct.unpack_from("I", buffer, _MASK_AT)[0] & _BIRTH:
            return 0
        seconds, nanoseconds = struct.unpack_from("qI", buffer, _BIRTH_AT)
        return int(seconds) * 1_000_000_000 + int(nanoseconds)
    try:
        return int(getattr(os.stat(file), "st_birthtime", 0) * 1_000_000_000)
    except OSError:
        return 0
