"""The catalog of one log among many: what a mapping's catalog knows of the files of that log, and of no other.

Each log of such a mapping has a stream of its own, so whoever carries one stream must not see the files of another. The
folders are listed once for all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from bridge.files.catalog import Catalog
from bridge.files.generation_record import GenerationRecord
from bridge.files.name_patterns import NamePatterns
from bridge.files.named_file import Identity, NamedFile


class SharedCatalog(Catalog):
    """The catalog of all logs of a mapping, and the views of single logs, with what a person said of their files."""

    def __init__(self, root: Path, path: str, rotated: tuple[str, ...], exclude: tuple[str, ...], order: str, *,
                 of_json: bool) -> None:  # fmt: skip
        super().__init__(root, path, rotated, exclude, order, of_json=of_json)  # type: ignore[arg-type]
        self.left_of: dict[str, tuple[set[str], set[Identity]]] = {}
        """The files that a person set aside in a log's stream, by log: their paths, and their devices and inodes."""
        self.late_of: dict[str, dict[Identity, str]] = {}
        """The pieces that a repair brings over late into a log's stream, by log."""

    def of(self, log: str) -> LogCatalog:
        """Makes the catalog of one of the logs."""
        return LogCatalog(self, log)


class LogCatalog(Catalog):
    """The catalog of one log of a mapping: a view of the catalog of all logs. Thread-safe, as that one is."""

    def __init__(self, whole: SharedCatalog, log: str) -> None:
        super().__init__(whole.root, whole.path, of_lines=True)
        self.whole, self._log = whole, log
        self.patterns = _NoPatterns(whole.patterns)
        self.many, self.order, self.lock, self.notices = True, whole.order, whole.lock, whole.notices
        self._handed: dict[str, NamedFile] = {}

    @property
    def _logs(self) -> list[str]:
        return [self._log, *self.late.values()]

    @property
    def late(self) -> dict[Identity, str]:
        """Pieces that a repair brings over late into this log's stream, by the name that each had then."""
        return self.whole.late_of.get(self._log, {})

    @late.setter
    def late(self, late: dict[Identity, str]) -> None:
        return  # a new catalog has none

    @property
    def named(self) -> dict[str, NamedFile]:
        """The log's files, by their paths, and those that a person set aside, as of the last `refresh`."""
        with self.lock:
            names, identities = self.whole.left_of.get(self._log, (set(), set()))
            mine = {listed.name: listed for listed in self.whole.of_logs(self._logs)}
            if names or identities:
                known = self.whole.named
                mine |= {name: known[name] for name in names if name in known}
                mine |= {listed.name: listed for listed in known.values() if listed.identity in identities}
            return mine

    @named.setter
    def named(self, named: dict[str, NamedFile]) -> None:
        return  # it is a view

    def hand(self, changed: Iterable[NamedFile]) -> None:
        """Gives the log's next sweep files that a sweep over all logs found changed: a change is found only once."""
        with self.lock:
            self._handed |= {listed.name: listed for listed in changed}

    def refresh(self) -> bool:
        """Updates the catalog of all logs from folders that changed; returns whether a file came or went."""
        return self.whole.refresh()

    def sweep(self, of: Iterable[str] | None = None) -> tuple[list[NamedFile], set[str]]:
        """Looks at the log's files; those that a sweep over all logs found changed are among them."""
        with self.lock:
            changed, logs = self.whole.sweep(self._logs)
            handed, self._handed = self._handed, {}
            found = handed | {listed.name: listed for listed in changed}
            return [*found.values()], logs | {listed.log for listed in handed.values() if listed.log in self._logs}

    def is_foreign(self, name: str) -> bool:
        """Whether a file in the catalog of all logs is none of lines."""
        return self.whole.is_foreign(name)

    def claim(self, log: str, known: GenerationRecord) -> None:
        """Notes in the catalog of all logs that a file was seen to be a generation of this one."""
        self.whole.claim(log, known)

    def bring_over(self, late: dict[Identity, str]) -> None:
        """Makes files logs by themselves that a repair brings over into this log's stream."""
        if late != self.late:
            self.whole.late_of[self._log] = late
            self.whole.bring_over({i: name for mine in self.whole.late_of.values() for i, name in mine.items()})

    def leave(self, names: set[str], identities: set[Identity]) -> None:
        """Sets files aside, as a person said of this log's stream."""
        if (names, identities) != self.whole.left_of.get(self._log, (set(), set())):
            self.whole.left_of[self._log] = names, identities
            said = self.whole.left_of.values()
            self.whole.leave({n for left, _ in said for n in left}, {i for _, left in said for i in left})

    def forget_claims(self, log: str = "") -> None:
        """Makes the catalog of all logs forget which files were seen to be which generations of this log."""
        for mine in self._logs:
            self.whole.forget_claims(mine)

    def is_log(self, name: str) -> bool:
        """Whether this path is the log's, or that of a piece that a repair brings over into the log's stream."""
        return name in self._logs

    def known(self, listed: NamedFile) -> GenerationRecord | None:
        """Returns the record of the generation that a file was seen to be; None: of no known one."""
        return self.whole.known(listed)

    def lying(self, log: str, but: Identity) -> set[int]:
        """Returns the numbers of the log's generations of which there is a file, other than the inode `but`."""
        return self.whole.lying(log, but)

    def that_begin(self, length: int, head: str, but: str) -> list[str]:
        """Finds no file: another log that begins alike has a stream of its own, so it is no copy of this one."""
        return []

    def is_claimed(self, identity: Identity) -> bool:
        """Whether a file of this device and inode was ever seen to be a generation of any log of the mapping."""
        return self.whole.is_claimed(identity)

    def logs(self, known: Iterable[str] = ()) -> list[str]:
        """Lists the log, and the pieces that come late into its stream, as far as there are files, or `known`."""
        with self.lock:
            self.refresh()
            return sorted(log for log in self._logs if self.whole.has(log) or log in known)

    def has(self, log: str) -> bool:
        """Whether there was any file of the log at the last refresh."""
        return log in self._logs and self.whole.has(log)

    def names(self) -> list[str]:
        """Lists the log's files, sorted by their paths below the root. Raises SourceError."""
        with self.lock:
            self.refresh()
            return sorted(self.named)

    def holds(self, path: str) -> bool:
        """Whether a file of this absolute path was there at the last refresh, of whatever log."""
        return self.whole.holds(path)

    def log_at(self, path: str) -> str | None:
        """Finds the log that the file of this absolute path belongs to; None: it is not this one."""
        found = self.whole.log_at(path)
        return found if found in self._logs else None

    def files_of(self, log: str) -> dict[Path, Identity]:
        """Maps the path of every file of a log to the device and inode behind the path. Raises SourceError."""
        return self.whole.files_of(log)

    def at_path(self, log: str) -> os.stat_result | None:
        """Returns the stat of the file at a log's own path; None: there is none. Raises SourceError."""
        return self.whole.at_path(log)

    def lies(self, identity: Identity) -> bool:
        """Whether any file of the mapping has this device and inode, as of the last refresh."""
        return self.whole.lies(identity)

    def marks(self) -> tuple[int, ...]:
        """Returns when the mapping's folders changed, 0 for a moment ago."""
        return self.whole.marks()


def taken_by(catalog: Catalog, name: str) -> str:
    """Returns the log to which the file of this path belongs now, where it is another than the path's; else ""."""
    whole = catalog.whole if isinstance(catalog, LogCatalog) else catalog
    listed = whole.named.get(name)
    return listed.log if listed is not None and listed.log not in (None, name) else ""


class _NoPatterns(NamePatterns):
    """The name patterns of a mapping's logs, of which whoever carries one log lists no files by the globs again."""

    def __init__(self, of: NamePatterns) -> None:
        self.__dict__.update(of.__dict__)

    def found_below(self, root: Path) -> set[Path]:
        """Lists no file: whoever carries all the logs compares them with the catalog."""
        return set()
