"""Names in Unicode's two forms (NFC, NFD): what looks the same on a screen may be another name on disk. Pure."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from re import Pattern


def other_form(name: str, patterns: Sequence[Pattern[bytes]]) -> bool:
    """Whether one of the patterns would match a file's name if it were written in another Unicode form (NFC, NFD)."""
    raws = [os.fsencode(unicodedata.normalize(form, name)) for form in ("NFC", "NFD")]
    return any(pattern.fullmatch(raw) for raw in raws for pattern in patterns)
