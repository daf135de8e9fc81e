"""Temporary names: those that editors, downloads and atomic writers give to unfinished or left-over files. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

ENDINGS = (".tmp", ".temp", ".part", ".partial", ".swp", ".swo", ".swx", ".crdownload", ".download", "~")
"""The endings of names that editors and downloads give to files which are not complete."""

_LOCK = re.compile(r"\.#.*|#.*#", re.DOTALL)
_HIDDEN = re.compile(r"\.(.+)\.([A-Za-z0-9]{6})", re.DOTALL)
_COUNTED = re.compile(r"(.+)\.\d{5,}", re.DOTALL)


def leftover(name: str, there: Callable[[str], bool] = lambda other: False) -> bool:
    """Whether a name, without its folder, is temporary: of a file that an editor left or that a writer will rename.

    `x.1234567`, and `.x.abcdef` where its six characters are plain letters, is only taken for that where `there` says
    that a file `x` lies beside it: else it may be what its name says.
    """
    if _LOCK.fullmatch(name) or name.lower().endswith(ENDINGS):
        return True
    if found := _HIDDEN.fullmatch(name):
        return there(found[1]) or not found[2].isalpha() or not (found[2].islower() or found[2].isupper())
    found = _COUNTED.fullmatch(name)
    return found is not None and there(found[1])
