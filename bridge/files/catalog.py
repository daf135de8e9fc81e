"""The catalog of a mapping's files (DESIGN §6.2): each file that the mapping names, and the log that it belongs to.

Each folder is listed once for all logs of the mapping, and again only when it changed. One inode is one file, whatever
names lead to it; a file that is renamed inside the glob stays what it was.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import RLock

from bridge.files.content_form import SUFFIXES
from bridge.files.content_look import look_at_content
from bridge.files.folder_listing import ABSENT, FolderListing, leads_out, stat_of
from bridge.files.generation_record import GenerationRecord
from bridge.files.known_inodes import KnownInodes
from bridge.files.name_patterns import NamePatterns
from bridge.files.named_file import Identity, NamedFile
from bridge.files.piece_age import Order, bare
from bridge.files.piece_names import PieceNames
from bridge.files.temporary_names import leftover


class Catalog:
    """The catalog of one mapping's files below `root`: those of `path`, and the `rotated` pieces. Thread-safe.

    `order` decides the age of pieces. `of_lines`: other files are set aside, `of_json`: also what is no JSON by lines.
    The caller takes the `notices` of names.
    """

    def __init__(
        self, root: Path, path: str, rotated: Sequence[str] = (), exclude: Sequence[str] = (),
        order: Order = "evidence", *, of_lines: bool = True, of_json: bool = False,
    ) -> None:  # fmt: skip
        self.root = root
        self.path = path
        self.patterns = NamePatterns(path, rotated, exclude)
        self.many = self.patterns.many
        self._of_lines, self._of_json = of_lines, of_json
        self.order = order
        self.lock = RLock()
        self.notices: list[str] = []
        self.named: dict[str, NamedFile] = {}
        """Every file that the mapping names, by its path below the root, as of the last `refresh`."""
        self._folders = FolderListing(root, self.patterns.all)
        self._by_identity, self._by_log = dict[Identity, set[str]](), dict[str, set[str]]()
        self._claims = KnownInodes(root)
        self._left: tuple[set[str], set[Identity]] = (set(), set())
        self.late: dict[Identity, str] = {}
        """Pieces that a repair brings over late: each is a log by itself, by the name that it had then."""
        self._told, self._lost = set[str](), set[str]()
        self._belonging = PieceNames(self.is_log)

    # -- what is there ---------------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Updates the catalog from folders that changed; returns whether a file came or went. Raises SourceError."""
        with self.lock:
            came, went = self._folders.refresh()
            if not came and not went:
                return False
            touched = {self._drop(name) for name in went} | {self._add(name, inode) for name, inode in came}
            self._assign(touched - {None})  # type: ignore[arg-type]
            return True

    def _drop(self, name: str) -> Identity | None:
        listed = self.named.pop(name, None)
        if listed is None:
            return None
        self._by_identity.get(listed.identity, set()).discard(name)
        if listed.log is not None:
            self._by_log.get(listed.log, set()).discard(name)
            self._lost.add(listed.log)
        return listed.identity

    def _add(self, name: str, inode: int) -> Identity | None:
        """Adds a file to the catalog, if the mapping names it; returns its device and inode where the file has them."""
        rotated = self.patterns.is_rotated(name)
        if not rotated and not self.patterns.is_wanted(name):
            if self.patterns.is_other_form(name):
                said = (
                    "has another Unicode form (NFC, NFD) than the mapping's: rename it, or write the mapping's as it is"
                )
                self._say(name, f"is not carried: its name on disk {said} on disk")
            return None
        if self.patterns.is_excluded(name):
            return None
        listed = NamedFile(name, self.root / name, inode < 0, rotated)
        folder, _, last = name.rpartition("/")
        if folder not in self._folders.known:  # the folder is gone again
            return None
        beside = self._folders.known[folder].files
        special = rotated or (not self.many and name == self.path)  # then a number at the end marks a piece
        if leftover(last, (lambda other: False) if special else beside.__contains__) and name != self.path:
            listed.aside = "an editor's or a writer's own file"
        elif not name.isprintable():
            listed.aside = "a log's name must be printable UTF-8: rename it"
        self.named[name] = listed
        if listed.aside:
            self._say(name, f"is not carried: {listed.aside}" if not name.isprintable() else "")
            return None
        try:
            now = os.stat(listed.path)
        except OSError as error:
            if error.errno in ABSENT:
                del self.named[name]
                return None
            listed.log = name if self.many and not rotated else self._named_log(name)  # opening it tells why
            self._by_log.setdefault(listed.log, set()).add(name)
            return None
        if stat.S_ISDIR(now.st_mode):
            del self.named[name]
            return None
        if not stat.S_ISREG(now.st_mode) and name != self.path:
            listed.aside = "it is no regular file"
            return None
        if listed.link and self.many and not rotated and leads_out(listed.path, self.root):
            listed.aside = "it is a link that leaves the root"
            self._say(name, f"is not carried: {listed.aside}; name it in a mapping of its own")
            return None
        listed.identity = (now.st_dev, now.st_ino)
        if name in self._left[0] or listed.identity in self._left[1]:
            listed.aside = "left"
            listed.facts = (*listed.identity, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
            return None
        listed.told = not self._of_lines  # else whoever is about to read the file asks what it is
        self._by_identity.setdefault(listed.identity, set()).add(name)
        return listed.identity

    def _turned(self, listed: NamedFile, now: os.stat_result) -> bool:
        """Looks at a file again that is none of lines, or may be; returns whether it is the other now."""
        json = self._of_json and not self._claims.carried(listed.identity)  # else broken lines of it are in quarantine
        if listed.told or not look_at_content(listed, now, json=json):
            return False
        mine = self._by_identity.setdefault(listed.identity, set())
        (mine.discard if listed.foreign else mine.add)(listed.name)
        if listed.foreign:
            if listed.log is not None:
                self._by_log.get(listed.log, set()).discard(listed.name)
                self._lost.add(listed.log)
            listed.log = None
            self._say(listed.name, f"is not carried: {listed.aside}")
        return True

    def is_foreign(self, name: str) -> bool:
        """Whether a file in the catalog is none of lines, by its first bytes, and so is never read."""
        with self.lock:
            listed = self.named.get(name)
            if listed is None or (listed.aside and not listed.foreign):
                return False
            now = stat_of(listed.path) if not listed.told else None
            if now is not None and self._turned(listed, now):
                self._assign({listed.identity})
            return listed.foreign

    def _say(self, name: str, what: str) -> None:
        if what and name not in self._told:
            self._told.add(name)
            self.notices.append(f"{name if name.isprintable() else ascii(name)} {what}")

    # -- which log a file belongs to -------------------------------------------------------------------------

    def claim(self, log: str, known: GenerationRecord) -> None:
        """Notes in the catalog that a file of this device and inode was seen to be a generation of a log."""
        with self.lock:
            if log not in self._by_log:
                self._belonging.add(log)
            identity = (known.device, known.inode)
            self._claims.add(identity, log, known)
            mine = self._by_identity.get(identity, ())
            if any(self.named[name].log != log for name in mine):
                self._assign({identity})

    def bring_over(self, late: dict[Identity, str]) -> None:
        """Makes files of these devices and inodes logs of these names in the catalog: a repair brings them over."""
        with self.lock:
            if late != self.late:
                changed, self.late = {*(late.items() ^ self.late.items())}, late
                self._assign({identity for identity, _ in changed})

    def forget_claims(self, log: str = "") -> None:
        """Makes the catalog forget which files were which generations, of all logs or one: the ledger was rebuilt."""
        with self.lock:
            self._claims.clear(log)

    def leave(self, names: set[str], identities: set[Identity]) -> None:
        """Sets the files of these names, and of these devices and inodes, aside in the catalog, as a person said."""
        with self.lock:
            if (names, identities) == self._left:
                return
            old, self._left = self._left, (names, identities)
            turned = {name for name, listed in self.named.items() if listed.identity in old[1] ^ identities}
            touched = set[Identity | None]()
            for name in (turned | (old[0] ^ names)) & self.named.keys():
                folder, _, last = name.rpartition("/")
                inode = self._folders.known[folder].files.get(last, 0)
                touched |= {self._drop(name), self._add(name, inode)}
            self._assign({identity for identity in touched if identity is not None})

    def _assign(self, identities: set[Identity]) -> None:
        """Assigns the files in the catalog with these identities to logs, and chooses which of their names counts."""
        guessed: list[NamedFile] = []
        for identity in identities:
            group = [self.named[name] for name in self._by_identity.get(identity, ())]
            if not group:
                self._by_identity.pop(identity, None)
                continue
            group.sort(key=lambda listed: (listed.link, listed.rotated, listed.name))
            names = [listed.name for listed in group if not listed.link]
            log = self._claims.log_of(identity, names, group[0].name) if self.many else self.path
            log = self.late.get(identity, log)
            first = next((listed for listed in group if listed.name == log and not listed.link), group[0])
            for listed in group:
                listed.of = "" if listed is first else first.name
            if log is None and first.rotated:
                guessed.append(first)
            else:
                self._give(group, log or first.name)
        for first in guessed:  # once all logs are known
            group = [self.named[name] for name in self._by_identity[first.identity]]
            self._give(group, self._named_log(first.name))

    def _give(self, group: Iterable[NamedFile], log: str) -> None:
        for listed in group:
            if listed.log is not None and listed.log != log:
                self._by_log.get(listed.log, set()).discard(listed.name)
            listed.log = log
            if log not in self._by_log:
                self._belonging.add(log)
            self._by_log.setdefault(log, set()).add(listed.name)

    def _named_log(self, name: str) -> str:
        """Finds the log in the catalog that a rotated piece belongs to by name; a piece of none is a log by itself."""
        if not self.many:
            return self.path
        return self._belonging.log_of(name) or name

    def is_log(self, name: str) -> bool:
        """Whether the catalog takes a file of this path below the root for a log of the mapping's, by its name."""
        return self.patterns.is_log(name)

    # -- what is asked ---------------------------------------------------------------------------------------

    def sweep(self, of: Iterable[str] | None = None) -> tuple[list[NamedFile], set[str]]:
        """Looks at every file in the catalog, or at those of the logs `of`: returns which changed, and their logs.

        Changed since the last sweep, that is, or new; a log also where a file of its went. Raises SourceError.
        """
        with self.lock:
            self.refresh()
            changed, turned = list[NamedFile](), set[Identity]()
            for listed in self.named.values() if of is None else self.of_logs(of):
                if listed.aside and not listed.foreign:
                    continue
                try:
                    now = os.stat(listed.path)
                except OSError:
                    if listed.facts is not None:
                        listed.facts = None
                        changed.append(listed)
                    continue
                facts = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
                if facts != listed.facts:
                    if listed.foreign and self._turned(listed, now):
                        turned.add(listed.identity)
                    if facts[:2] != listed.identity:  # a link that leads to another file by now
                        turned |= {listed.identity, facts[:2]}
                        self._by_identity.get(listed.identity, set()).discard(listed.name)
                        listed.identity = facts[:2]
                        self._by_identity.setdefault(listed.identity, set()).add(listed.name)
                    listed.facts = facts
                    if not listed.foreign:
                        changed.append(listed)
            if turned:
                self._assign(turned)
            if not self.many and self.path not in self.named:
                self._lost.add(self.path)  # whoever looks at that log reports what is wrong
            lost = self._lost if of is None else self._lost & {*of}
            self._lost = self._lost - lost
            return changed, lost | {listed.log for listed in changed if listed.log is not None}

    def of_logs(self, logs: Iterable[str]) -> list[NamedFile]:
        """Lists the files that belong to these logs, with other names of the same files, as of the last `refresh`."""
        return [self.named[name] for log in logs for name in self._by_log.get(log, ())]

    def known(self, listed: NamedFile) -> GenerationRecord | None:
        """Returns the record of the generation that a file in the catalog was seen to be; None: of no known one."""
        return self._claims.known(listed.identity, listed.log or "", listed.name)

    def lying(self, log: str, but: Identity) -> set[int]:
        """Returns the numbers of a log's generations of which the catalog has a file, other than the inode `but`."""
        mine = (listed for listed in self.of_logs([log]) if not listed.aside)
        found = (self.known(listed) for listed in mine if listed.identity != but)
        return {known.number for known in found if known is not None}

    def that_begin(self, length: int, head: str, but: str) -> list[str]:
        """Finds the files in the catalog seen to begin with so many bytes of this digest, but the one named `but`."""
        with self.lock:
            found = [self._by_identity.get(identity, ()) for identity in self._claims.that_begin((length, head))]
            return sorted(name for names in found for name in names if name != but and not self.named[name].of)

    def is_claimed(self, identity: Identity) -> bool:
        """Whether the catalog ever noted a file of this device and inode as a generation of a log."""
        return self._claims.any_of(identity)

    def logs(self, known: Iterable[str] = ()) -> list[str]:
        """Lists the logs in the catalog: the mapping's path, or every log that has files, and those that are `known`.

        Raises SourceError.
        """
        if not self.many:
            return [self.path, *sorted(self.late.values())]
        with self.lock:
            self.refresh()
            found = {log for log, files in self._by_log.items() if files}
            return sorted(found | {name for name in known if self.is_log(name)})

    def has(self, log: str) -> bool:
        """Whether the catalog had any file of a log at its last refresh."""
        return bool(self._by_log.get(log))

    def names(self) -> list[str]:
        """Lists every file that a mapping's catalog knows, sorted by its path below the root. Raises SourceError."""
        with self.lock:
            self.refresh()
            return sorted(self.named)

    def holds(self, path: str) -> bool:
        """Whether a file of this absolute path was in the catalog at the last refresh."""
        return path.removeprefix(f"{self.root}/") in self.named

    def log_at(self, path: str) -> str | None:
        """Finds the log that the catalog gives the file of this absolute path, or would by its name.

        None: it is no file of the mapping's.
        """
        name = path.removeprefix(f"{self.root}/")
        if name == path:
            return None
        if not self.many and name == self.path:
            return name
        listed = self.named.get(name)
        if listed is not None:
            return listed.log
        if self.is_log(name):
            return name
        return self._named_log(name) if self.patterns.is_rotated(name) else None

    def files_of(self, log: str) -> dict[Path, Identity]:
        """Maps the path of every file that the catalog has of a log now to the device and inode behind the path.

        Of a piece and its compressed form beside it only one counts: the plain one. Raises SourceError.
        """
        with self.lock:
            self.refresh()
            mine = [self.named[name] for name in self._by_log.get(log, ()) if not self.named[name].of]
            names = {listed.name: listed.path for listed in mine if not self.is_foreign(listed.name)}
        if not self.many and log == self.path and not self.is_foreign(log):
            names[log] = self.root / log
        plain = {bare(name) for name in names if bare(name) != name} & names.keys()
        found: dict[Path, Identity] = {}
        for name, path in names.items():
            short = bare(name)
            if short != name:
                beside = [f"{short}{suffix}" for suffix in SUFFIXES]
                if short in plain or any(other in names for other in beside[: beside.index(name)]):
                    continue  # a plain file, or a preferred compressed one, lies beside it
            now = stat_of(path)
            if now is not None and (name == log or stat.S_ISREG(now.st_mode)):
                found[path] = (now.st_dev, now.st_ino)
        return found

    def at_path(self, log: str) -> os.stat_result | None:
        """Returns the stat of the file at a log's own path; None: there is none, or the catalog has it in another log.

        Raises SourceError.
        """
        now = stat_of(self.root / log)
        if now is None or self.is_foreign(log):
            return None
        if not self.many and log == self.path:
            return now
        with self.lock:
            listed = self.named.get(log)
            if listed is None or listed.identity != (now.st_dev, now.st_ino):
                self.refresh()
                listed, now = self.named.get(log), stat_of(self.root / log)
            return now if listed is not None and listed.log == log and not listed.of else None

    def lies(self, identity: Identity) -> bool:
        """Whether any file in the catalog has this device and inode, as of the last refresh."""
        return bool(self._by_identity.get(identity))

    def marks(self) -> tuple[int, ...]:
        """Returns when the catalog's folders changed, 0: a moment ago; while that stands, no file has another name."""
        with self.lock:
            return self._folders.marks()
