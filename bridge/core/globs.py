"""Matches whole paths, as bytes, with globs: the patterns of `source.path` and `source.exclude`. Pure."""

from __future__ import annotations

import functools
import os
import re


def is_glob(path: str) -> bool:
    """Whether a path is a glob, with `*`, `?` or `[` in it, and so may match many files."""
    return any(c in path for c in "*?[")


def literal(path: str) -> str:
    """Writes a path as the glob that matches this path alone."""
    return re.sub(r"([*?[])", r"[\1]", path)


@functools.lru_cache(maxsize=1024)
def translated(pattern: str) -> re.Pattern[bytes]:
    """Translates a glob into a regular expression over whole paths.

    `**/` is any number of folders; `*` and `?` stop at a `/`.
    """
    at, parts = 0, []
    for match in re.finditer(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]", pattern):
        parts.append(re.escape(os.fsencode(pattern[at : match.start()])))
        token = match[0]
        if token == "**/":
            parts.append(rb"(?:[^/]+/)*")
        elif token == "**":
            parts.append(rb".*")
        elif token in "*?":
            parts.append(rb"[^/]*" if token == "*" else rb"[^/]")
        else:
            inside = re.sub(r"([\\[&|~])", r"\\\1", token[1:-1])
            inside = "^" + inside[1:] if inside.startswith("!") else inside.replace("^", "\\^", 1)
            try:
                parts.append(re.compile(os.fsencode(f"[{inside}]")).pattern)
            except re.error:  # the brackets hold no valid set of characters
                parts.append(re.escape(os.fsencode(token)))
        at = match.end()
    parts.append(re.escape(os.fsencode(pattern[at:])))
    return re.compile(b"".join(parts), re.DOTALL)
