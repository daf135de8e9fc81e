"""Globs over whole paths, as bytes: what `source.path` and `source.exclude` mean for a folder. Pure."""

from __future__ import annotations

import os
import re


def is_glob(path: str) -> bool:
    """Whether a path may match many files."""
    return any(c in path for c in "*?[")


def translated(pattern: str) -> re.Pattern[bytes]:
    """A glob as a regular expression over whole paths: `**/` is any number of folders, `*` and `?` stop at a `/`."""
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
            inside = token[1:-1].replace("\\", "\\\\")
            inside = "^" + inside[1:] if inside.startswith("!") else inside.replace("^", "\\^", 1)
            try:
                parts.append(re.compile(os.fsencode(f"[{inside}]")).pattern)
            except re.error:  # no set of characters
                parts.append(re.escape(os.fsencode(token)))
        at = match.end()
    parts.append(re.escape(os.fsencode(pattern[at:])))
    return re.compile(b"".join(parts), re.DOTALL)
