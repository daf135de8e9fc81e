"""The names in a folder, listed again only when the folder has changed: thousands of sources ask for the same."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from threading import Lock

from bridge.errors import SourceError

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""The error numbers which say that there is no file of a name; any other says that nobody could look."""

SURE = 0.1
"""Seconds after which a folder's time of change is sure to be another when something changes again."""


class Listing:
    """Lists the names in folders for all sources of a mapping, and a folder again only when it changed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: dict[Path, tuple[int, list[str]]] = {}

    def names(self, folder: Path) -> list[str]:
        """The names of what is in the folder, sorted; none where there is no such folder. Raises SourceError."""
        try:
            changed = os.stat(folder).st_mtime_ns
            with self._lock:
                known = self._known.get(folder)
                if known is not None and known[0] == changed:
                    return known[1]
                with os.scandir(folder) as found:
                    names = sorted(listed.name for listed in found)
                if time.time() - changed / 1e9 > SURE:
                    self._known[folder] = changed, names
                else:
                    self._known.pop(folder, None)
                return names
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            hint = "`ulimit -n` says how many files may be open" if error.errno == errno.EMFILE else ""
            raise SourceError(f"cannot be listed: {error.strerror}", where=str(folder), hint=hint) from None

    def changed(self, folder: Path) -> int:
        """The folder's time of change in ns since 1970; 0 where another change may have the same, or none is told."""
        try:
            changed = os.stat(folder).st_mtime_ns
        except OSError:
            return 0
        return changed if time.time() - changed / 1e9 > SURE else 0
