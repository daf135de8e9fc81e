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

    def clash(self, root: bytes) -> tuple[bytes, bytes] | None:
        """Two paths of the files' side that would have one name on the other; None: no two files do.

        What lies below `root` at a path that a rule leads to, and that no rule changes, keeps its own name.
        """
        for one, over in self.rules:
            for other, further in self.rules:
                here = one + further[len(over.rstrip(b"/")) :] if _below(further, over) else None
                if (
                    here is not None
                    and (one, over) != (other, further)
                    and self.over(here) == further
                    and here != other
                ):
                    return here, other
            if _below(over, root) and self.over(over) == over != one:
                return one, over
        seen: set[bytes] = set()
        for one, _ in self.rules:
            if one in seen:
                return one, one
            seen.add(one)
        return None

    def data_back(self, data: bytes) -> bytes:
        """A message's data with the path that it names undone."""
        path = path_in(data) if self.rules else None
        return data if path is None else with_path(data, self.back(path))


def _below(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def _plain(path: bytes) -> bytes:
    return path.rstrip(b"/") or b"/"


def _mapped(path: bytes, rules: tuple[tuple[bytes, bytes], ...]) -> bytes:
    for one, other in sorted(rules, key=lambda rule: -len(rule[0])):
        if _below(path, one):
            return (other.rstrip(b"/") + path[len(one.rstrip(b"/")) :]) or b"/"
    return path
