"""Holds the mapping context that forward and mirror share: a mapping's files, and the lock on the mirror's cursor."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, RLock

from bridge.continuity.lost_entries import SeenEntries
from bridge.continuity.ownership import StreamLease
from bridge.core.config import Settings
from bridge.core.errors import LedgerError, SourceError
from bridge.core.logger import logger
from bridge.core.mapping import Mapping
from bridge.core.model import Checkpoint, Position, paired
from bridge.files.artifact_digest import DigestThread
from bridge.files.catalog import Catalog
from bridge.files.folder import MessageFolder
from bridge.files.generation_record import GenerationRecord
from bridge.files.log_catalog import SharedCatalog
from bridge.files.tail import Tail
from bridge.kinds.direction_stats import DirectionStats
from bridge.ledger.file_standings import LATE, LEFT, remembered_pieces
from bridge.ledger.sources import all_generations, generations_of, save_generation
from bridge.ledger.store import Ledger
from bridge.streams.components import ComponentHash
from bridge.streams.keys import Keys


class WakeUp:
    """Wakes forward's thread with the paths of changed files: watchdog and mirror add paths, forward takes them."""

    def __init__(self) -> None:
        self._event = Event()
        self._lock = Lock()
        self._paths: set[str] = set()

    def __call__(self, path: str = "") -> None:
        """Wakes forward's thread, and tells it that something happened to the file at this path, if one is given."""
        with self._lock:
            if path:
                self._paths.add(path)
        self._event.set()

    def wait(self, timeout: float) -> set[str]:
        """Waits until something happens to a file, `timeout` seconds at most; returns the paths since the last call."""
        self._event.wait(timeout)
        with self._lock:
            self._event.clear()
            paths, self._paths = self._paths, set()
        return paths


def keep_news(tail: Tail, ledger: Ledger, stream: str) -> list[str]:
    """Writes a tail's new generations into the ledger before anything refers to them; returns notices for the log."""
    with tail.lock:
        if tail.news:
            with ledger.transaction():
                for known in tail.news:
                    save_generation(ledger, stream, tail.name, known)
            tail.news.clear()
        notices = list(tail.notices)
        tail.notices.clear()
    return notices


def keep_generations(tail: Tail, closed: list[GenerationRecord], ledger: Ledger, stream: str) -> None:
    """Saves into the ledger, in a transaction, the generation that forward carries now, and those that ended since."""
    first = tail.first()
    if first is not None:
        save_generation(ledger, stream, tail.name, tail.confirmed(first))
    for known in closed:  # a generation that was empty when it ended may be known by more bytes since
        since = tail.record(known.number)
        known = since if since.packed else max(known, since, key=lambda record: record.at.head_len)
        save_generation(ledger, stream, tail.name, known)


def catalog_of_all(mapping: Mapping, settings: Settings) -> SharedCatalog:
    """Returns the catalog that all streams share of a mapping with many: one in a process."""
    source = mapping.source
    made = settings.shared.get(mapping.family)
    if not isinstance(made, SharedCatalog):
        made = SharedCatalog(
            settings.root, source.path, source.rotated, source.exclude, source.order, of_json=mapping.of_json
        )
        settings.shared[mapping.family] = made
    return made


class MappingContext:
    """The mapping context that forward and mirror share: a mapping's files and locks, and notes for each other."""

    def __init__(self, mapping: Mapping, settings: Settings) -> None:
        if mapping.many_streams:
            raise AssertionError(f"{mapping.name} has many streams: each of them has a context")
        self.mapping = mapping
        self.settings = settings
        self.keys = Keys.of(mapping.stream.key)
        self.components = ComponentHash(self.keys, mapping.name, settings.instance)
        """The components of the mapping's stream, as Redis has them."""
        self.wake = WakeUp()
        self.forward, self.mirror = DirectionStats(), DirectionStats()
        """Statistics of what the mapping carried to the stream, and to the files."""
        self.cursor_lock = RLock()
        self.cursor_epoch = 0
        """Counts how often forward took the mirror's cursor back; guarded by `cursor_lock`."""
        source = mapping.source
        folder = MessageFolder(settings.root, mapping.files, source.exclude) if mapping.kind.whole_files else None
        self.folder = folder if not mapping.kind.latest else None
        """The folder of a mapping whose files are each a message, or announced by one; None for any other mapping."""
        self.hasher = DigestThread()
        """Computes the digests of the mapping's large artifacts."""
        self.values = folder if mapping.kind.latest else None
        """The folder of a mapping whose files each hold a latest value; None for any other mapping."""
        self.hold = StreamLease(self.keys, settings.state_dir)
        """This process's lease on the stream."""
        self.sighted = SeenEntries()
        """The entries that forward and mirror saw last in the stream."""
        self.held_back: dict[str, str] = {}
        """New logs that are not carried yet, as they may be copies of other logs: the reason of each, by name."""
        self.compare_again = False
        """Whether forward must compare ledger and stream again: the mirror found a loss, or a file can be read now."""
        self.books_epoch = 0
        """Counts how often the ledger was rebuilt since this process began: what was read from it before is void."""
        self._tails: dict[str, Tail] = {}
        self.catalog = catalog_of_all(mapping, settings).of(mapping.log) if mapping.log else Catalog(
            settings.root, source.path, source.rotated, source.exclude, source.order,
            of_lines=mapping.kind.lines, of_json=mapping.of_json,
        )  # fmt: skip
        """The catalog of the mapping's files, where these are logs."""
        self._claimed = bool(mapping.log)
        self._lock = Lock()
        self._mirror_codec = mapping.codec(mapping.mirror.path) if mapping.mirror else None
        self._naming = frozenset(kind.encode() for kind in mapping.message.artifact_types)

    def tail(self, name: str, ledger: Ledger | None) -> Tail:
        """Returns the `Tail` of a file that forward and mirror share.

        Without a ledger, a new one knows no generation yet.
        """
        with self._lock:
            if self.catalog.many:
                self.claim_all(ledger)
            if name not in self._tails:
                known = generations_of(ledger, self.mapping.stream.key, name) if ledger is not None else []
                self._tails[name] = self.new_tail(name, known)
            return self._tails[name]

    def claim_all(self, ledger: Ledger | None) -> None:
        """Tells the mapping's catalog, once, of every generation that the ledger knows."""
        if ledger is not None and not self._claimed:
            self._claimed = True
            for log_name, known in all_generations(ledger, self.mapping.stream.key):
                self.catalog.claim(log_name, known)

    def leave(self, ledger: Ledger | None) -> None:
        """Makes the mapping's catalog leave alone files that a person set aside, and admit files that come over late.

        Reads both from the ledger. Raises LedgerError.
        """
        if ledger is not None:
            told = remembered_pieces(ledger, self.mapping.stream.key).values()
            left = [noted for noted in told if noted.standing == LEFT]
            bound = {noted.facts[:2] for noted in left if noted.facts is not None}
            self.catalog.leave({noted.path for noted in left if noted.facts is None}, bound)
            late = {noted.facts[:2]: noted.path for noted in told if noted.standing == LATE and noted.facts is not None}
            self.catalog.bring_over(late)

    def new_tail(self, name: str, known: list[GenerationRecord]) -> Tail:
        """Makes a separate `Tail` for a caller that follows a mapping's file alone, with these known generations."""
        root, codec = self.settings.root, self.mapping.codec(name)
        times = (lambda lines: codec.decode(lines).times) if self.mapping.kind.lines else None
        if self.catalog.many or name == self.mapping.source.path or name in self.catalog.late.values():
            tail = Tail(self.catalog, name, known, times)
            tail.aligns = times is not None
        else:
            tail = Tail(
                Catalog(root, name, (f"{name}.*",), of_lines=self.mapping.kind.lines, of_json=self.mapping.of_json),
                name,
                known,
                times,
            )
            tail.aligns = False  # of the file's lines only the mirror's are this mapping's
        return tail

    def tail_at(self, name: str, ledger: Ledger | None, stored: bytes | None) -> tuple[Tail, Position | None]:
        """Looks at a mapping's file for a caller that only reads, and puts the reader of its `Tail` at a checkpoint.

        `stored` is the checkpoint's value. Returns its position with the `Tail`; None where `stored` is empty.
        """
        tail = self.tail(name, ledger)
        tail.look()
        if not stored:
            return tail, None
        checkpoint = Checkpoint.from_json(stored)
        tail.seek(checkpoint.generation, checkpoint.at)
        return tail, checkpoint.position

    def look(self, ledger: Ledger | None) -> None:
        """Looks at all the logs and contexts of a mapping, for a caller that only reads them.

        A file that cannot be looked at fails when it is read.
        """
        if self.folder is None and self.values is None:
            for name in self.source_names():
                with suppress(SourceError, LedgerError, OSError):
                    self.tail(name, ledger).look()

    def source_names(self, known: Iterable[str] = ()) -> list[str]:
        """Lists the names of the mapping's sources: a path without a glob, else every match that is no rotated piece.

        The list has those in `known` too, if they match: their file may be rotated away, and no new one be there yet.
        """
        if self.folder or self.values:
            return [self.mapping.source.path]
        names = self.catalog.logs(known)
        self.log_notices()
        return names

    def log_notices(self) -> None:
        """Logs what the mapping's catalog has to say of files, once."""
        for said in self.catalog.notices:
            logger.warning("%s", said)
        self.catalog.notices.clear()

    def source_at(self, path: str) -> str | None:
        """Returns the name of the mapping's log or context at this absolute path; None: the mapping has none there."""
        root = f"{self.settings.root}/"
        name = path.removeprefix(root)
        if self.folder or self.values or not path.startswith(root):
            return None
        return name if self.catalog.is_log(name) else None

    def line_of(self, fields: list[bytes]) -> tuple[str, bytes] | None:
        """Encodes an entry's fields as the mapping's mirror would: returns file name and line, with the newline.

        For a folder, the content without a newline. None where the mirror makes no line of the entry.
        """
        section, codec = self.mapping.mirror, self._mirror_codec
        if section is None or codec is None:
            return None
        values = paired(fields)
        if any(name not in values for name in codec.fields):
            return None
        if self.folder is not None and self.mapping.format.pattern is not None:  # the file's name says the rest
            return section.path, values[b"data"]
        if values.get(b"type") in self._naming:  # the data name a path, which the files' side knows by another name
            values[b"data"] = self.settings.paths.data_back(values[b"data"])
        path = section.path.replace("{role}", values[b"role"].decode("utf-8", "replace"))
        if path != section.path:  # a field's value may come from the file's name
            codec = self.mapping.codec(path)
        line = codec.encode(tuple(values[name] for name in codec.fields))
        return None if isinstance(line, str) else (path, line + (b"\n" if self.folder is None else b""))

    def folders(self) -> set[Path]:
        """Lists the folders to watch for changes of the mapping's files: where files are, or may come to be."""
        if (folder := self.folder or self.values) is not None:
            return folder.folders
        root = self.settings.root
        try:
            folders = {name.rpartition("/")[0] for name in self.catalog.logs()}
        except SourceError:
            folders = set()  # forward meets the same error, and reports it
        return {root / folder for folder in folders} | {(root / self.mapping.source.path).parent}

    def ask_to_compare(self) -> None:
        """Asks the mapping's forward to compare ledger and stream again before any more messages are sent."""
        self.compare_again = True

    def forget_books(self) -> None:
        """Makes the mapping context forget all generations, as the ledger was rebuilt: they are read from it again."""
        with self._lock:
            for tail in self._tails.values():
                tail.close()
            self._tails.clear()
            self.catalog.forget_claims()
            self._claimed = False
            self.books_epoch += 1

    def close(self) -> None:
        """Closes every file that the mapping's forward and mirror follow, and stops computing digests."""
        self.hasher.close()
        for tail in self._tails.values():
            tail.close()
