"""The same file, as each side names it: `[[paths]]` of bridge.toml, applied on the way over and undone on the way back.

A rule counts for the path itself and for what lies below it, the longest one first. Pure.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.codecs.named import path_in, with_path


@dataclass(frozen=True, slots=True)
class Paths:
    """`rules` are pairs: as the files' side names it, as the readers of Redis do."""

    rules: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> Paths:
        """From text."""
        return cls(tuple((_plain(os.fsencode(a)), _plain(os.fsencode(b))) for a, b in pairs))

    def over(self, path: bytes) -> bytes:
        """A path of the files' side as the readers of Redis name it."""
        return _mapped(path, self.rules)

    def back(self, path: bytes) -> bytes:
        """The inverse."""
        return _mapped(path, tuple((b, a) for a, b in self.rules))

    def data_back(self, data: bytes) -> bytes:
        """A message's data with the path that it names undone."""
        path = path_in(data) if self.rules else None
        return data if path is None else with_path(data, self.back(path))


def _plain(path: bytes) -> bytes:
    return path.rstrip(b"/") or b"/"


def _mapped(path: bytes, rules: tuple[tuple[bytes, bytes], ...]) -> bytes:
    for one, other in sorted(rules, key=lambda rule: -len(rule[0])):
        if path == one or path.startswith(one.rstrip(b"/") + b"/"):
            return (other.rstrip(b"/") + path[len(one.rstrip(b"/")) :]) or b"/"
    return path
