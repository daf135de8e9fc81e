"""The path that a message's data names: finds and replaces it in data that is a path, or JSON that holds one. Pure."""

from __future__ import annotations

import json

from bridge.core.codecs.jsonl import STRINGS, find_span

EXTRA = (b"path", b"artifact_type", b"artifact_status")
"""The extra fields in the entry of a message whose data names a path."""

PATH_POINTERS = (("path",), ("artifact_path",), ("file_path",), ("artifact", "path"), ("file",))
"""The places in a JSON object where the named path is looked for, in this order."""

LONGEST_PATH = 4096
"""The most bytes that a named path may have: no system that the bridge runs on opens a longer one."""

MARK = b"\xef\xbb\xbf"
"""The byte order mark of UTF-8."""


def path_in(data: bytes) -> bytes | None:
    """Finds the path that a message's data names; None: the data names no path."""
    found = _found(data)
    return found[0] if found is not None else None


def with_path(data: bytes, path: bytes) -> bytes:
    """Replaces the path that a message's data names, and keeps all other bytes; data that names none stays as it is."""
    found = _found(data)
    if found is None:
        return data
    _, start, end, quoted = found
    text = path.decode("utf-8", "surrogateescape")
    put = json.dumps(text).encode("utf-8", "surrogateescape") if quoted else path
    return data[:start] + put + data[end:]


def _found(data: bytes) -> tuple[bytes, int, int, bool] | None:
    """Finds the path that a message's data names, where it begins and ends, and whether it is a JSON string there."""
    if data.startswith(MARK):  # the byte order mark of a file that became part of the message
        found = _found(data[len(MARK) :])
        return (found[0], found[1] + len(MARK), found[2] + len(MARK), found[3]) if found is not None else None
    stripped = data.strip()
    if not stripped or len(stripped) > 1 << 20:
        return None
    if stripped[:1] not in (b"{", b'"'):
        start = data.index(stripped)
        plain = b"\n" not in stripped and b"\0" not in stripped and len(stripped) <= LONGEST_PATH
        return (stripped, start, start + len(stripped), False) if plain else None
    text = data.decode("utf-8", "surrogateescape")
    try:
        whole = STRINGS.decode(text)
    except (ValueError, RecursionError):
        return None
    for place in PATH_POINTERS if isinstance(whole, dict) else ((),):
        span = find_span(text, place)
        value = STRINGS.decode(text[slice(*span)]) if span is not None else None
        if isinstance(value, str) and value and "\0" not in value and len(value) <= LONGEST_PATH:
            start, end = (len(text[:at].encode("utf-8", "surrogateescape")) for at in span or (0, 0))
            try:
                return value.encode("utf-8", "surrogateescape"), start, end, True
            except UnicodeEncodeError:  # a lone surrogate that no byte explains
                return None
    return None
