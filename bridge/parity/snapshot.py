"""Parity's snapshot of both sides at one moment: the cursors, the stream's end, and every file of a mapping, open."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from bridge.continuity.archive_reader import ArchiveReader
from bridge.continuity.lost_entries import missing_entries, what_was_lost
from bridge.core.config import Settings
from bridge.core.errors import SourceError
from bridge.core.globs import is_glob, translated
from bridge.core.mapping import Mapping
from bridge.core.model import HIGHEST_ID, NO_BYTES, ZERO_ID, Checkpoint, Fingerprint, format_id, parse_id
from bridge.core.state_directory import lock_holder
from bridge.files.folder_listing import leads_out
from bridge.files.piece_names import PieceNames
from bridge.files.temporary_names import leftover
from bridge.ledger.acknowledgements import accepted_of, redacted_of
from bridge.ledger.dual_writes import roles_of
from bridge.ledger.edits import all_carried_spans
from bridge.ledger.file_standings import COPY, LEFT, remembered_pieces
from bridge.ledger.heartbeat import SILENT_AFTER, heartbeat
from bridge.ledger.seen_entries import all_seen
from bridge.ledger.sources import generations_of, sources_of, stream_memory
from bridge.ledger.store import Ledger
from bridge.parity.account import AsideFile
from bridge.parity.acknowledgements import Acknowledged
from bridge.parity.log.files_of_log import files_of_log
from bridge.parity.log.generations import CutFile, FilePieces, RecordedGeneration, SourceFiles, written
from bridge.parity.log.items import OFFSETS, SHIFT, ComparedFile
from bridge.parity.log.moved_places import MovedPlaces
from bridge.parity.log.replaced_generations import out_of_turn, replaced
from bridge.parity.proof_point import FilePlace, ProofPoint
from bridge.streams.components import BOTH, ComponentHash
from bridge.streams.connect import Connection
from bridge.streams.heartbeat import heartbeat_if_told
from bridge.streams.keys import Keys
from bridge.streams.reader import stream_info
from bridge.streams.stream_metadata import StreamMetadata, read_metadata
from bridge.streams.trim import read_trimmed

NOT_RUNNING = "the bridge is not running"
YOUNG = 3.0
"""Seconds in which a running bridge takes up a file that was written to."""

RENAME_LOOKS = 20
"""How often at most the snapshot lists the files while they are being renamed."""


class Cursors:
    """The snapshot's cursors: how far forward and mirror came, read before either side; all above is in flight."""

    def __init__(
        self, mapping: Mapping, settings: Settings, connection: Connection, own: Keys, ledger: Ledger | None
    ) -> None:  # fmt: skip
        stream = mapping.stream.key
        memories = self._memories = sources_of(ledger, stream) if ledger is not None else {}
        books = self.books = read_metadata(connection, own)
        pulse = heartbeat_if_told(settings, connection, settings.process_name)
        self.both = _write_both(connection, mapping, settings)
        self.both |= roles_of(ledger, stream) if ledger is not None else frozenset()
        info = stream_info(connection, own.stream)
        self.last, self.length = info.last_id, info.length
        self.first, self.added = info.first_id, info.added
        self.trimmed = read_trimmed(connection, own)
        self.marked = int(connection.call("HLEN", own.late))
        self.notes: list[str] = []
        self.alive = False
        """Whether a bridge runs, as its heartbeat tells, or the lock that it holds."""
        self._holder = lock_holder(settings.state_dir)
        beats = [
            pulse,
            heartbeat(ledger, settings.instance) if ledger is not None else None,
        ]
        self.beat = max(
            filter(None, beats), key=lambda beat: float(beat["at"]), default=None
        )  # Redis may have gone back
        announced = [parse_id(json.loads(raw)["id"].encode()) for raw in books.mirror.values()]
        self.mirrored_to = max(announced, default=ZERO_ID)
        self.mirrored = mapping.mirror is not None
        self.lost = ""
        if ledger is not None:
            forked, _ = missing_entries(connection, own, all_seen(ledger, stream), info, self.trimmed.floor)
            self.lost = what_was_lost(stream_memory(ledger, stream), memories, info, books) or forked
        self.dual = self.mirrored and (bool(announced) if self.beat is None else bool(self.beat.get("dual")))
        self.numbers = {int(n): os.fsdecode(raw) for raw, n in books.sources.items()}
        self.numbers |= {memory.number: name for name, memory in memories.items() if memory.number not in self.numbers}

    def say_who(self) -> None:
        """Notes in parity's snapshot whether a bridge runs, by its last heartbeat or its lock."""
        beat = self.beat
        if beat is None:
            self.notes.append(NOT_RUNNING if self.books.checkpoint else "no bridge runs here, and none ever did")
        elif not beat.get("stopped") and time.time() - float(beat["at"]) <= SILENT_AFTER:
            self.alive = True
        elif self._holder:
            self.alive = True
            self.notes.append(f"{self._holder} is there, but gives no heartbeat")
        else:
            self.notes.append(NOT_RUNNING)


class Snapshot(Cursors):
    """Snapshot that parity compares: cursors, stream's end, files, read in this order so that nothing is missed."""

    def __init__(
        self, mapping: Mapping, settings: Settings, connection: Connection, own: Keys, ledger: Ledger | None
    ) -> None:  # fmt: skip
        stream = mapping.stream.key
        names = sources_of(ledger, stream) if ledger is not None else {}
        self._remembered = {name: generations_of(ledger, stream, name) for name in names} if ledger is not None else {}
        super().__init__(mapping, settings, connection, own, ledger)
        self._mapping = mapping
        self._settings = settings
        self.sources: dict[str, SourceFiles] = {}
        self.targets: dict[str, SourceFiles] = {}
        self.gone: dict[str, list[int]] = {}
        self.cut: dict[str, CutFile] = {}
        self._known: dict[str, list[RecordedGeneration]] = {}
        self.moved: dict[str, MovedPlaces] = {}
        """By the log's name: where lines stand now that were sent from a file which another file replaced."""
        self._stretches = all_carried_spans(ledger, stream) if ledger is not None else {}
        told = (accepted_of(ledger, stream), redacted_of(ledger, stream)) if ledger is not None else ([], [])
        self._acknowledged = told
        self.acknowledged = Acknowledged()
        self._limit = mapping.format.max_line_bytes
        self._pieces = FilePieces(settings.root, (), self._limit)
        self._ledger = ledger
        self._archive = ArchiveReader(mapping, settings.state_dir, ledger) if ledger is not None else None
        self._open_all()
        self._say()

    def _open_all(self) -> None:
        """Opens every file of the mapping for the snapshot, again until none was renamed meanwhile. Raises SourceError.

        A file that is renamed may have moved from one name to another between two looks.
        """
        for _ in range(RENAME_LOOKS):
            before = self._stamps()
            self._open(before)
            if self._stamps() == before:
                return
            self.close()
            self.sources.clear()
            self.targets.clear()
        raise SourceError("its files are renamed faster than they can be looked at", where=self._mapping.source.path)

    def _stamps(self) -> dict[Path, tuple[int, int]]:
        """Maps each path that may be a piece of the snapshot's sources to the device and inode behind it."""
        if self._mapping.log:
            return files_of_log(self._mapping, self._settings, self._ledger, self.numbers.values())
        root, source, found = self._settings.root, self._mapping.source, {}
        unwanted = [translated(pattern) for pattern in source.exclude]
        rotated = {path for name in source.rotated for path in root.glob(name)}

        def beside(path: Path) -> Callable[[str], bool]:
            special = path in rotated or not is_glob(source.path)  # a number behind its name is a piece's
            return (lambda other: False) if special else lambda other: path.with_name(other).exists()

        paths = {path for name in (source.path, *source.rotated) for path in root.glob(name)}
        for path in sorted(paths | {root / name for name in self.numbers.values()}):
            raw = os.fsencode(path.relative_to(root))
            if leftover(path.name, beside(path)) or any(pattern.fullmatch(raw) for pattern in unwanted):
                continue
            try:
                now = path.stat()
            except OSError:
                continue
            found[path] = (now.st_dev, now.st_ino)
        return found

    def _open(self, found: dict[Path, tuple[int, int]]) -> None:
        root, mapping = self._settings.root, self._mapping
        try:
            for number, name in self.numbers.items():
                memory = self._memories.get(name)
                known = _generations(self.books, name, number)
                for recorded in self._remembered.get(name, ()):
                    told = known.get(recorded.number, RecordedGeneration(recorded.number, recorded.at, recorded.closed))
                    known[recorded.number] = replace(told, inode=(recorded.device, recorded.inode))
                if memory is not None and memory.stored:
                    _add_checkpoint(known, memory.stored)
                self._known[name] = [known[n] for n in sorted(known)]
            naming = SourceNaming(mapping, self._known)
            self._pieces = FilePieces(root, naming.carried(root, found), self._limit)
            self._leave_out_replaced()
            self.sources = self._pieces.sort_out(self._known, naming)
            for name in self.sources.keys() | ({naming.only} if naming.only else set()):
                self.sources.setdefault(name, SourceFiles([], [], [], {}))
                self._known.setdefault(name, [])
            if self.mirrored:
                self._find_targets(self._limit, self._ledger)
        except BaseException:
            self.close()
            raise

    def _leave_out_replaced(self) -> None:
        """Leaves replaced generations out of the snapshot, unless their own file lies there still, as a backup."""
        for name, records in self._remembered.items():
            stretches = self._stretches.get(name, {})
            gone, lying = replaced(records, self._known[name], stretches, self._pieces)
            aliases = out_of_turn(records, gone)
            if gone or lying or stretches:
                copies = {known.number for known in records if known.rewrites < 0}
                self.moved[name] = MovedPlaces(gone, stretches, lying, copies, aliases)
            left = [known for known in self._known[name] if known.number not in gone]
            self._known[name] = [replace(known, number=aliases.get(known.number, known.number)) for known in left]
        self.acknowledged = Acknowledged(*self._acknowledged)

    def _find_targets(self, limit: int, ledger: Ledger | None) -> None:
        """Opens for the snapshot the files, with their rotated pieces, that only the mirror writes."""
        mirror = self._mapping.mirror
        if mirror is None:
            return
        paths = {mirror.path.replace("{role}", role) for role in self._settings.roles} if "{role}" in mirror.path else {
            mirror.path
        }  # fmt: skip
        for name in sorted(paths - self.sources.keys()):
            known = generations_of(ledger, self._mapping.stream.key, name) if ledger is not None else []
            newest = max((record.number for record in known), default=0)
            self._known[name] = [RecordedGeneration(n, NO_BYTES, True) for n in range(1, newest + 1)]
            pieces = [path for path in self._settings.root.glob(f"{name}.*") if path.is_file()]
            self.targets[name] = written(name, [*pieces, self._settings.root / name], newest, limit)

    def _say(self) -> None:
        for name, found in [*self.sources.items(), *self.targets.items()]:
            here = {file.generation for file in found.files}
            open_record = next((recorded for recorded in self._known[name] if not recorded.closed), None)
            if (
                name in self.sources
                and open_record is not None
                and open_record.at.offset
                and open_record.number in found.changed
            ):
                self.cut[name] = CutFile.of(found.changed[open_record.number], open_record)
            self.gone[name] = [recorded.number for recorded in self._known[name] if recorded.number not in here]
            self.notes += [f"generation {number} of {name} is gone" for number in self.gone[name]]
        self.say_who()

    def known(self, name: str) -> list[RecordedGeneration]:
        """Returns the generations of a source that Redis or the ledger knew when the snapshot was taken."""
        return self._known[name]

    def base(self) -> ProofPoint | None:
        """Finds the proof point from which the snapshot of a trimmed stream is compared; None: from both beginnings.

        Raises SourceError: nobody noted what stood there.
        """
        if self.trimmed.floor == ZERO_ID:
            return None
        chain = self._archive.chain(self.trimmed.floor) if self._archive is not None else []
        base = json.loads(chain[0].base) if chain else self.trimmed.base
        if chain and base is None:
            return None
        if base is None:
            raise SourceError(
                f"was trimmed up to {format_id(self.trimmed.floor).decode()}, and nobody noted what stood there",
                where=self._mapping.stream.key,
                hint="only `bridge` may trim a stream that is to be compared: see [retention]",
            )
        begins = replace(ProofPoint.from_json(base), totals={}, digest="")
        begins = replace(begins, places={name: self._now(name, at) for name, at in begins.places.items()})
        # what came late may stand before its places, and its entry anywhere
        return replace(begins, last=HIGHEST_ID) if self.marked else begins

    def _now(self, name: str, at: FilePlace) -> FilePlace:
        """Translates a proof point's place, for the snapshot, to the file that replaced the one of that place."""
        moved = self.moved.get(name)
        now = moved.first_from(at.place) if moved is not None else at.place
        if moved is not None:
            moved.begins = at.place
        if now == at.place:
            return at
        newest = max((file.generation for file in self.sources[name].files), default=at.place >> SHIFT)
        file = next((file for file in self.sources[name].files if file.generation == now >> SHIFT), None)
        if file is None:  # all of it was taken out, or stands before
            return replace(at, place=newest << SHIFT, line=1)
        lines = sum(part.count(b"\n") for part in file.section(0, now & OFFSETS))
        return replace(at, place=now, line=lines + 1)

    def aside(self) -> list[AsideFile]:
        """Lists the files that the snapshot does not compare: copies, files somebody left alone, unknown files."""
        ledger, stream = self._ledger, self._mapping.stream.key
        told = remembered_pieces(ledger, stream) if ledger is not None else {}
        found = [AsideFile(name, "link", 0, f"another name of {of}") for name, of in sorted(self._pieces.links.items())]
        for name, of in self.sources.items():
            for piece in of.strangers:
                noted = told.get(piece)
                size, copy = self._pieces.size_of(piece), self._pieces.copied_of(piece)
                if noted is not None and noted.standing == LEFT:
                    found.append(AsideFile(piece, LEFT, size, noted.why))
                elif noted is not None and noted.standing == COPY and self._pieces.is_as(piece, noted.facts):
                    found.append(AsideFile(piece, "copy", size, noted.why))  # that one was edited since
                elif copy:
                    found.append(AsideFile(piece, "copy", size, f"its bytes are those of {copy}"))
                elif why := self._pieces.not_lines(piece, json=self._mapping.of_json):
                    found.append(AsideFile(piece, "aside", size, f"it is {why}"))
                elif self._may_come_to(piece):
                    found.append(AsideFile(piece, "waiting", size, "the bridge had no time yet to take it up"))
                else:
                    why = f"it is no piece of {name} that was carried"
                    found.append(AsideFile(piece, "unaccounted", size, why))
        return found

    def _may_come_to(self, piece: str) -> bool:
        """Whether a running bridge may not have come to the snapshot's file yet: either is new, or the bridge hangs."""
        now, beat = time.time(), self.beat or {}
        since = max(self._pieces.changed(piece), float(beat.get("started", 0.0)))
        return self.alive and (now - since < YOUNG or now - float(beat.get("at", 0.0)) > YOUNG)

    def size_of(self, file: ComparedFile) -> int:
        """Returns how many bytes, unpacked, a compared file of the snapshot holds."""
        return self._pieces.size_of(file.path)

    def positions(self, claimed_to: dict[str, int]) -> dict[str, int]:
        """Returns for each source of the snapshot the offset in its newest file up to which the verdict holds."""
        found = {}
        for name in self.sources:
            known = self._known[name]
            newest = next((recorded for recorded in known if not recorded.closed), known[-1] if known else None)
            place = max(claimed_to.get(name, -1), (newest.number << SHIFT) + newest.at.offset if newest else -1)
            if place >= 0:
                found[name] = place & OFFSETS
        return found

    def close(self) -> None:
        """Closes every file that the snapshot has open."""
        self._pieces.close()
        for found in self.targets.values():
            for lines in found.held:
                lines.close()


def _generations(books: StreamMetadata, name: str, number: int) -> dict[int, RecordedGeneration]:
    """Collects for the snapshot a source's generations from Redis: the closed ones and the one of its checkpoint."""
    found = {}
    for key, raw in books.generations.items():
        source, _, which = key.partition(b".")
        if int(source) == number:
            found[int(which)] = RecordedGeneration(int(which), Fingerprint.from_json(raw), True)
    stored = books.checkpoint.get(os.fsencode(name))
    if stored:
        _add_checkpoint(found, stored)
    return found


def _add_checkpoint(found: dict[int, RecordedGeneration], stored: bytes) -> None:
    at = Checkpoint.from_json(stored)
    known = found.get(at.generation)
    if known is None or (not known.closed and known.at.offset < at.at.offset):
        inode = known.inode if known is not None else (0, 0)
        found[at.generation] = RecordedGeneration(at.generation, at.at, False, inode)


class SourceNaming:
    """Names for the snapshot, without the ledger, the source of a mapping to which a file belongs by its path."""

    def __init__(self, mapping: Mapping, known: Iterable[str]) -> None:
        path = mapping.source.path
        self.only = mapping.log or ("" if is_glob(path) else path)
        """The only source of the mapping; empty where a glob names any number of them."""
        self._path = translated(path)
        self._rotated = [translated(pattern) for pattern in mapping.source.rotated]
        self._known = {*known} - {self.only}
        self._belonging = PieceNames(self._is_log)
        for name in known:
            self._belonging.add(name)

    def _is_log(self, name: str) -> bool:
        raw = os.fsencode(name)
        return bool(self._path.fullmatch(raw)) and not any(pattern.fullmatch(raw) for pattern in self._rotated)

    def carried(self, root: Path, paths: Iterable[Path]) -> list[Path]:
        """Picks the snapshot's files that may be carried, notes the logs. A glob follows no link out of the root."""
        found = [path for path in paths if self.only or (str(path).isprintable() and not leads_out(path, root))]
        for path in found:
            self._belonging.add(str(path.relative_to(root)))
        return found

    def __call__(self, name: str) -> str:
        """Returns the source to which the snapshot's file of this path below the root belongs by its name."""
        if name in self._known:
            return name  # what a repair brought over late is a log by itself, of that name
        if self.only:
            return self.only
        return name if self._is_log(name) else self._belonging.log_of(name) or name


def _write_both(connection: Connection, mapping: Mapping, settings: Settings) -> frozenset[bytes]:
    """Reads for the snapshot the roles of the components that write both sides of a mapping themselves."""
    roles: set[bytes] = set()
    for component, modes in ComponentHash.of(mapping, settings).all(connection).items():
        if modes.writes == BOTH:
            roles |= {role.encode() for role in settings.components.get(component, ())}
    return frozenset(roles)
