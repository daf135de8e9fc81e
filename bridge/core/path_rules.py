"""Rules for the same file as each side names it: `[[paths]]` of bridge.toml, applied on the way over and undone on the
way back.

A rule counts for the path itself and for what lies below it, the longest one first. Pure.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.core.codecs.named_path import path_in, with_path


@dataclass(frozen=True, slots=True)
class Paths:
    """The rules of `[[paths]]`, as pairs: how the files' side names a path, and how the readers of Redis name it."""

    rules: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> Paths:
        """Makes the rules of `[[paths]]` from pairs of text."""
        return cls(tuple((_plain(os.fsencode(a)), _plain(os.fsencode(b))) for a, b in pairs))

    def over(self, path: bytes) -> bytes:
        """Translates a path of the files' side to the name that the readers of Redis have for it."""
        return _mapped(path, self.rules)

    def back(self, path: bytes) -> bytes:
        """Translates a path as the readers of Redis name it to the name that the files' side has for it."""
        return _mapped(path, tuple((b, a) for a, b in self.rules))

    def clash(self, root: bytes) -> tuple[bytes, bytes] | None:
        """Two paths of the files' side that would have one name on the other; None: no two files do.

        What lies below `root` at a path that a rule leads to, and that no rule changes, keeps its own name.
        """
        for path, over in self.rules:
            if sum(path == again for again, _ in self.rules) > 1:
                return path, path
            for deeper, further in self.rules:
                if _below(further, over):
                    twin = path + further[len(over.rstrip(b"/")) :]
                    if twin != deeper and self.over(twin) == further:
                        return twin, deeper
            if _below(over, root) and self.over(over) == over != path:
                return path, over
        return None

    def data_back(self, data: bytes) -> bytes:
        """Returns a message's data with the path that it names as the files' side names it."""
        path = path_in(data) if self.rules else None
        return data if path is None else with_path(data, self.back(path))


def _below(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def _plain(path: bytes) -> bytes:
    return path.rstrip(b"/") or b"/"


def _mapped(path: bytes, rules: tuple[tuple[bytes, bytes], ...]) -> bytes:
    for begin, instead in sorted(rules, key=lambda rule: -len(rule[0])):
        if _below(path, begin):
            return (instead.rstrip(b"/") + path[len(begin.rstrip(b"/")) :]) or b"/"
    return path
