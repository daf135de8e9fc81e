"""A command on a terminal of a given width, as a person would see it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(cwd: Path, *args: str, columns: int, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Runs `bridge` with these arguments; its exit code and all that the terminal got, escapes included."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    whole = {**os.environ, "TERM": "xterm-256color", **(env or {})}
    child = subprocess.Popen(
        [sys.executable, "-m", "bridge", *args], cwd=cwd, env=whole, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            data = os.read(master, 1 << 16)
        except OSError:  # how a terminal says that nobody writes any more
            break
        if not data:
            break
        seen += data
    os.close(master)
    return child.wait(60), seen.decode(errors="replace")


def plain(text: str) -> list[str]:
    """The lines a person reads, without colours and movements of the cursor."""
    return [row.rstrip() for row in _ESCAPES.sub("\n" if "\x1b[1A" in text else "", text).replace("\r", "").split("\n")]


def coloured(text: str) -> bool:
    """Whether any text has a colour."""
    return re.search(r"\x1b\[[0-9;]*3[0-9][;m]", text) is not None
