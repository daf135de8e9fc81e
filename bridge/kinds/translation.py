"""Translates entries into the mirror's lines for each file, in stream order, and passes over file-born entries (P3)."""

from __future__ import annotations

from dataclasses import dataclass, field

from bridge.core.config import ROLE
from bridge.core.errors import RejectStop
from bridge.core.mapping import Mapping
from bridge.core.mapping_sections import MirrorSection
from bridge.core.model import MARKED, UTF8_MARK, EntryId, format_id, parse_origin, shown
from bridge.core.path_rules import Paths
from bridge.kinds.target import PendingWrite
from bridge.ledger.quarantine import KEPT_LINE_BYTES, QuarantinedMessage
from bridge.ledger.ranges import WrittenEntry
from bridge.streams.entry_json import pack_fields
from bridge.streams.reader import Entry


@dataclass(slots=True)
class MirrorBatch:
    """A batch of the mirror's translation: lines for each file, entries for quarantine, and the cursor behind them all.

    `retried`: the numbers of messages that leave quarantine with this batch, and the files they go to.
    """

    last: EntryId
    writes: list[PendingWrite] = field(default_factory=list)
    aside: list[QuarantinedMessage] = field(default_factory=list)
    stop: RejectStop | None = None
    retried: list[tuple[int, str]] = field(default_factory=list)
    begun: bool = False
    epoch: int = 0
    read: tuple[int, int] = (0, 0)
    """How many entries the batch was made of, and how many of these are forward's."""


class EntryTranslator:
    """Translates stream entries into the lines that one mapping's mirror writes; pure but for a cache of codecs."""

    ending = b"\n"
    """The bytes between one mirrored message and the next in a file; empty: each message has a file of its own."""

    def __init__(
        self, mapping: Mapping, section: MirrorSection, roles: frozenset[str], paths: Paths | None = None
    ) -> None:
        self.codec = mapping.codec(section.path)
        self.mapping = mapping
        self.section = section
        self._codecs = {section.path: self.codec}
        self._names = [*self.codec.fields]
        self._path = section.path
        self._roles = roles
        self._paths = paths or Paths()
        self._naming = frozenset(kind.encode() for kind in mapping.message.artifact_types if self._paths.rules)
        """Types of messages whose data name a path that has another name on the files' side."""
        self._limit = mapping.format.max_line_bytes
        self._stops = mapping.policy.on_reject == "stop"
        self._stream = mapping.stream.key

    def translate(
        self, found: list[Entry], last: EntryId, already: set[EntryId], cursor: EntryId, epoch: int
    ) -> MirrorBatch:
        """Translates entries read behind `cursor` up to `last` into a mirror batch.

        Entries in `already` are left out: their lines are there.
        """
        taken = MirrorBatch(last, epoch=epoch)
        if already:
            found = [entry for entry in found if entry.id not in already]
        plain, names, limit = self._path, self._names, self._limit
        straight = "{" not in plain
        usual = [straight and entry.fields[0::2] == names for entry in found]
        if self._naming:
            usual = [flag and entry.fields[5] not in self._naming for entry, flag in zip(found, usual, strict=True)]
        rows = [tuple(entry.fields[1::2]) for entry, flag in zip(found, usual, strict=True) if flag]
        encoded = self.codec.encode_all(rows)
        sizes = [len(line) + 1 if isinstance(line, bytes) else 0 for line in encoded]
        if len(rows) == len(found) and 0 not in sizes and max(sizes, default=0) <= limit + 1:
            whole: list[bytes] = encoded  # type: ignore[assignment]
            content = b"\n".join(whole) + b"\n"
            if UTF8_MARK not in content:  # else each is looked at: no line may begin with it
                if whole:
                    taken.writes = [PendingWrite(plain, content, list(zip([e.id for e in found], sizes, strict=True)))]
                return taken
        lines: dict[str, list[bytes]] = {plain: []}
        written: dict[str, list[WrittenEntry]] = {plain: []}
        each = iter(encoded)
        for i, (entry, is_usual) in enumerate(zip(found, usual, strict=True)):
            line = next(each) if is_usual else ""
            if isinstance(line, bytes) and len(line) <= limit and not line.startswith(UTF8_MARK):
                lines[plain].append(line)
                written[plain].append((entry.id, len(line) + 1))
                continue
            if self.file_born(entry):
                continue
            name, text, reason = self.line(entry)
            if reason:
                if self.set_aside(taken, entry, reason):
                    continue
                taken.last = found[i - 1].id if i else cursor
                break
            lines.setdefault(name, []).append(text)
            written.setdefault(name, []).append((entry.id, len(text) + 1))
        taken.writes = [
            PendingWrite(name, b"\n".join(part) + b"\n", written[name]) for name, part in lines.items() if part
        ]
        return taken

    @staticmethod
    def file_born(entry: Entry) -> bool:
        """Whether a stream entry was made from a line of a file, so that the mirror must write no line for it."""
        origin = entry.origin()
        return origin is not None and parse_origin(origin) is not None

    def set_aside(self, taken: MirrorBatch, entry: Entry, reason: str) -> bool:
        """Adds an entry that can be no line to a mirror batch, for quarantine; False: the mirror must stop."""
        raw = pack_fields(entry.fields)
        entry_id = format_id(entry.id).decode()
        if not self._stops:
            taken.aside.append(
                QuarantinedMessage("mirror", "", 0, 0, entry_id, reason, raw[:KEPT_LINE_BYTES], len(raw))
            )
            return True
        hint = 'delete or mend the entry, or set policy.on_reject = "quarantine"'
        taken.stop = RejectStop(reason, where=f"{self._stream} entry {entry_id}", hint=hint)
        return False

    def line(self, entry: Entry) -> tuple[str, bytes, str]:
        """Translates a Redis-born entry into its file's name and its content there, or the reason why it has none.

        For a log the content is a line without its newline.
        """
        origin = entry.origin()
        if origin is not None:
            return "", b"", f"origin is of no known form: {shown(origin, 40)}"
        names = entry.fields[0::2]
        if len(set(names)) != len(names):
            return "", b"", "a field stands in it twice"
        values = dict(zip(names, entry.fields[1::2], strict=True))
        missing = [name.decode() for name in self._names if name not in values]
        if missing:
            return "", b"", f"no field '{missing[0]}'"
        path = self._path
        if "{role}" in path:
            role = values[b"role"].decode("utf-8", "replace")
            if not ROLE.fullmatch(role) or role not in self._roles:
                return "", b"", "its role is not declared in [components], so it may not become a file name"
            path = path.replace("{role}", role)
        if values.get(b"type") in self._naming:
            values[b"data"] = self._paths.data_back(values[b"data"])
        path, line = self.encoded(path, values, entry.id)
        if isinstance(line, str):
            return "", b"", line
        if self.ending and line.startswith(UTF8_MARK):
            return "", b"", MARKED
        if len(line) > self._limit:
            return "", b"", f"over max_line_bytes: a line of {len(line)} bytes, the limit is {self._limit}"
        return path, line, ""

    def encoded(self, path: str, values: dict[bytes, bytes], entry_id: EntryId) -> tuple[str, bytes | str]:
        """Encodes an entry's values for the file at `path`; returns the path, and the line or why there is none."""
        if path not in self._codecs:  # a field's value may come from the file's name
            self._codecs[path] = self.mapping.codec(path)
        return path, self._codecs[path].encode(tuple(values[name] for name in self._names))
