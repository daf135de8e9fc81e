"""Known inodes: which files, by device and inode, were seen to be a generation of which log, and are so still."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from bridge.core.errors import SourceError
from bridge.files.birth_time import born
from bridge.files.generation import open_regular
from bridge.files.generation_record import GenerationRecord

Identity = tuple[int, int]
"""A file's device and inode."""


class KnownInodes:
    """The known inodes of files below `root`, each with the logs of which its file was seen to be a generation.

    An inode's number may be another file's by now.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._logs: dict[Identity, dict[str, GenerationRecord]] = {}
        self._heads: dict[tuple[int, str], dict[Identity, str]] = {}

    def add(self, identity: Identity, log: str, known: GenerationRecord) -> None:
        """Adds a known inode: a file of this device and inode was seen to be this generation of a log."""
        self._logs.setdefault(identity, {})[log] = known
        if known.at.head_len:
            self._heads.setdefault((known.at.head_len, known.at.head), {})[identity] = log

    def that_begin(self, head: tuple[int, str]) -> list[Identity]:
        """Lists the known inodes of files that were seen to begin with so many bytes of this digest."""
        return [*self._heads.get(head, ())]

    def any_of(self, identity: Identity) -> bool:
        """Whether the device and inode are known: their file was ever seen to be a generation of a log."""
        return identity in self._logs

    def carried(self, identity: Identity) -> bool:
        """Whether forward has carried anything of a file of this device and inode, as a generation of some log."""
        return any(known.at.offset for known in self._logs.get(identity, {}).values())

    def clear(self, log: str = "") -> None:
        """Forgets all known inodes, and so which files were seen to be which generations; those of one log, or all."""
        for known in self._logs.values() if log else ():
            known.pop(log, None)
        self._logs = {identity: known for identity, known in self._logs.items() if log and known}
        of_others = {head: {identity: name for identity, name in found.items() if log and name != log}
                     for head, found in self._heads.items()}  # fmt: skip
        self._heads = {head: found for head, found in of_others.items() if found}

    def known(self, identity: Identity, log: str, name: str) -> GenerationRecord | None:
        """Returns a log's record for the known inode of the file `name`; None: it was never seen as one of the log's.

        A file that was made at another time is another one.
        """
        known = self._logs.get(identity, {}).get(log)
        made = born(f"{self._root}/{name}") if known is not None and known.born else 0
        return None if known is None or (made and made != known.born) else known

    def log_of(self, identity: Identity, names: Collection[str], name: str) -> str | None:
        """Finds the log of which the file `name`, by its known inode, is a generation still; None: nobody saw that.

        `names` are all that lead to it, but for links. Where nobody can tell when a file was made, its content tells.
        """
        claims = self._logs.get(identity)
        if not claims:
            return None
        own = [path for path in names if path in claims]
        made = born(f"{self._root}/{name}")
        for log in [*own, *(log for log in claims if log not in own)]:
            known = claims[log]
            if made and known.born:
                if made == known.born:
                    return log
            elif log in own or self._holds(name, known):
                return log
        return None

    def _holds(self, name: str, known: GenerationRecord) -> bool:
        """Whether a file holds the content by which the generation of a known inode is recognised."""
        if not known.at.head_len:
            return False
        try:
            file = open_regular(self._root / name)
        except SourceError:
            return False
        try:
            return file is not None and file.holds(known.at)
        except SourceError:
            return False
        finally:
            if file is not None:
                file.close()
