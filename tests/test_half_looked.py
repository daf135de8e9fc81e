"""A look or a seek that fails half way leaves no half chain: the next look numbers nothing anew."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import SourceError
from bridge.files.tail import Tail
from bridge.model import Fingerprint, hex_digest

CALLS = ("pread", "fstat", "stat", "open", "scandir")


class Failing:
    """Fails one of the calls that `bridge.files` makes: the one of this number, counted from 1; at 0 none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made, self.at = 0, 0
        for name in CALLS:
            monkeypatch.setattr(os, name, self._failing(getattr(os, name)))

    def _failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if "/bridge/files/" in sys._getframe(1).f_code.co_filename:
                self.made += 1
                if self.made == self.at:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*args, **more)

        return call

    def arm(self, at: int) -> None:
        self.made, self.at = 0, at


def _open_files() -> int:
    return len([*Path("/dev/fd").iterdir()])


def _failed(act: Callable[[], None]) -> bool:
    try:
        act()
    except SourceError:
        return True
    return False


@pytest.mark.parametrize("failing_act", ["look", "seek"])
def test_nothing_is_numbered_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_act: str) -> None:
    """Whichever system call fails, and although the other direction looks next, each file keeps its number."""
    for number, name in enumerate(("l.4", "l.3", "l.2", "l.1", "l"), 1):
        (tmp_path / name).write_bytes(b"".join(b"agent|t|turn|%d-%d\n" % (number, n) for n in range(20 * number)))
    fresh = Tail(tmp_path, "l", ("l.*",), [])
    fresh.look()
    met = fresh.records()
    fresh.close()
    assert [generation.number for generation in met] == [1, 2, 3, 4, 5]
    oldest = (tmp_path / "l.4").read_bytes()
    ended = Fingerprint(len(oldest), len(oldest), hex_digest(oldest), hex_digest(oldest[-128:]))
    known = [replace(met[0], at=ended, closed=True), *met[1 : 4 if failing_act == "look" else 5]]
    raw = (tmp_path / "l.1").read_bytes()
    at = Fingerprint(100, 100, hex_digest(raw[:100]), hex_digest(raw[:100]))
    failing, failed, number, reached = Failing(monkeypatch), 0, 0, 0
    while reached >= number:
        number += 1
        tail = Tail(tmp_path, "l", ("l.*",), known)
        opened = _open_files()
        failing.arm(number)
        failed += _failed(tail.look if failing_act == "look" else partial(tail.seek, 4, at))
        reached = failing.made
        failing.arm(0)
        tail.look()  # the mirror's, before the sender has put the reader in its place
        tail.seek(4, at)
        tail.look()
        found = [(generation.number, generation.path.name, generation.read_to) for generation in tail.pending()]
        assert found == [(4, "l.1", 100), (5, "l", 0)]
        assert {after.number: after.inode for after in tail.records()} == {now.number: now.inode for now in met}
        tail.close()
        assert _open_files() == opened, "a file stays open that nobody has any more"
    assert failed > 10
