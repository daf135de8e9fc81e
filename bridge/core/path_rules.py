"""Path rules, `[[paths]]` of bridge.toml: translate a file's path between the files' side and the readers of Redis.

A rule counts for the path itself and for what lies below it, the longest one first. Pure.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.core.codecs.named_path import path_in, with_path


@dataclass(frozen=True, slots=True)
class Paths:
    """The path rules of `[[paths]]`, as pairs: a path as the files' side names it, and as the readers of Redis do."""

    rules: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> Paths:
        """Makes the path rules of `[[paths]]` from pairs of text."""
        return cls(tuple((_plain(os.fsencode(a)), _plain(os.fsencode(b))) for a, b in pairs))

    def over(self, path: bytes) -> bytes:
        """Translates a path of the files' side, by the path rules, to the name that readers of Redis have for it."""
        return _mapped(path, self.rules)

    def back(self, path: bytes) -> bytes:
        """Translates a path as the readers of Redis name it, by the path rules, back to the name on the files' side."""
        return _mapped(path, tuple((b, a) for a, b in self.rules))

    def clash(self, root: bytes) -> tuple[bytes, bytes] | None:
        """Finds two paths of the files' side to which the path rules give one name on the other side; None: no two.

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
        """Replaces the path in a message's data, by the path rules, with the name that the files' side has for it.

        Data that names no path is returned unchanged.
        """
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
