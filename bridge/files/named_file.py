"""A named file: a file that a mapping names, with its device and inode, and the log that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Identity = tuple[int, int]
"""A file's device and inode."""

FileStamp = tuple[int, int, int, int, int]
"""A file's device, inode, size in bytes, and times of writing and of change in ns: the same while it is unchanged."""


@dataclass(slots=True, eq=False)
class NamedFile:
    """A named file: one that a mapping names, by its path below the root.

    `log` is the log that it belongs to; `of` the name of the file that this is another name of; `aside` why it is never
    read. `rotated`: the mapping names it as a piece, not as a log.
    """

    name: str
    path: Path
    link: bool
    rotated: bool
    identity: Identity = (0, 0)
    facts: FileStamp | None = None
    log: str | None = None
    of: str = ""
    aside: str = ""
    foreign: bool = False
    """Whether the file is set aside as its content is none of lines, and may be taken up again when it changes."""
    told: bool = False
    """Whether enough of the file's beginning was seen to tell that it holds lines."""
