"""Looks at the first bytes of a named file, unpacked, and sets it aside if they are none of lines."""

from __future__ import annotations

import os
import stat

from bridge.core.errors import SourceError
from bridge.files.content_form import ENDS_HEAD, HEAD, not_lines
from bridge.files.generation import open_regular
from bridge.files.named_file import NamedFile


def look_at_content(listed: NamedFile, now: os.stat_result, *, json: bool = False) -> bool:
    """Sets a named file aside whose first bytes are none of lines; returns whether `foreign` changed.

    Then `aside` says what the file is, and what to do. A file that cannot be read is left to whoever reads its lines.
    """
    if listed.told or not now.st_size or not stat.S_ISREG(now.st_mode):
        return False
    was = listed.foreign
    try:
        file = open_regular(listed.path)
    except SourceError:
        return False
    if file is None:
        return False
    try:
        head = file.read(HEAD, 0)
        if (b"\n" not in head and not file.packed) or (json and not_lines(head, json=True)):
            head = file.read(ENDS_HEAD, 0)  # more of it may tell that it is lines after all
    except SourceError:
        return False
    finally:
        file.close()
    why = not_lines(head, json=json)
    listed.told = not why and len(head) >= HEAD and (b"\n" in head or len(head) >= ENDS_HEAD)
    listed.foreign, listed.aside = bool(why), f"it is {why}" if why else ""
    return listed.foreign != was
