"""The name patterns of a mapping: which names are its logs, which are rotated pieces, and which are left out."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from bridge.core.globs import is_glob, translated
from bridge.files.unicode_forms import other_form


class NamePatterns:
    """The name patterns of one mapping: its `path`, the globs of `rotated` pieces, and those of `exclude`."""

    def __init__(self, path: str, rotated: Sequence[str], exclude: Sequence[str]) -> None:
        self.many = is_glob(path)
        """Whether the mapping's path names any number of logs."""
        self.all = (path, *rotated)
        self._wanted = translated(path)
        self._rotated = [translated(pattern) for pattern in rotated]
        self._unwanted = [translated(pattern) for pattern in exclude]
        self._forms = {unicodedata.normalize("NFC", listed) for listed in self.all if not listed.isascii()}

    def is_wanted(self, name: str) -> bool:
        """Whether a path below the root is named by the mapping's path itself, whatever is excluded."""
        return self._wanted.fullmatch(os.fsencode(name)) is not None

    def is_rotated(self, name: str) -> bool:
        """Whether a path below the root is named as a rotated piece, whatever is excluded."""
        raw = os.fsencode(name)
        return any(pattern.fullmatch(raw) for pattern in self._rotated)

    def is_excluded(self, name: str) -> bool:
        """Whether the mapping leaves out a path below the root."""
        raw = os.fsencode(name)
        return any(pattern.fullmatch(raw) for pattern in self._unwanted)

    def is_log(self, name: str) -> bool:
        """Whether a path below the root is taken for a log of the mapping's."""
        return name.isprintable() and self.is_wanted(name) and not self.is_rotated(name) and not self.is_excluded(name)

    def is_other_form(self, name: str) -> bool:
        """Whether a file is left out only as its name has another Unicode form (NFC, NFD) than the patterns."""
        return bool(self._forms) and not name.isascii() and other_form(name, (self._wanted, *self._rotated))

    def found_below(self, root: Path) -> set[Path]:
        """Lists the files below `root` that the globs find, but for those left out, for comparison with the catalog."""
        found = {path for pattern in self.all for path in root.glob(pattern)}
        return {path for path in found if not path.is_dir() and not self.is_excluded(str(path.relative_to(root)))}
