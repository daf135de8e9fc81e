"""Checks how the lines of a file would translate by a mapping's codec: counts, first messages, and reject reasons.

Nothing is carried. Files that are a message, a value or an artifact as a whole are checked as well.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import accumulate, compress
from operator import ne
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge.core.codecs import Codec
from bridge.core.codecs.artifact import ArtifactCodec
from bridge.core.codecs.chunk import CHUNK
from bridge.core.codecs.document import JsonDocumentCodec, TextDocumentCodec
from bridge.core.codecs.multiline import MultilineCodec
from bridge.core.errors import SourceError
from bridge.core.model import Row, as_json, shown
from bridge.files.artifact_digest import SNIFFED_BYTES, type_of
from bridge.files.content_form import ENDS_HEAD, not_lines
from bridge.files.folder import MessageFolder, ReadFile
from bridge.files.generation import open_regular
from bridge.files.lines import Cut, walk

if TYPE_CHECKING:
    from bridge.core.mapping import Mapping

KEPT_LINES = 5
SHOWN_BYTES = 200
"""Bytes from the beginning of a context file that are shown as its first chunk."""

MOST_KINDS = 1000
"""How many different roles, and types, are counted separately; all further ones are counted as one."""


@dataclass(slots=True)
class CheckReport:
    """Reports how the lines, or whole files, that were checked would translate: counts, first messages, reject reasons.

    `first`: (line number, (field, value) pairs). `reasons`: kind → count, first line numbers, an example. For whole
    files their names take the place of line numbers.

    `partial`: bytes of last lines without their newline; `size`: all bytes. `earliest` and `latest`: times of messages
    in ms since 1970; `clamped` counts messages whose entry ID would differ from their time; `values`: bytes of all
    their fields; `damage`: what is wrong with a compressed file.
    """

    translated: int = 0
    rejected: int = 0
    empty: int = 0
    partial: int = 0
    size: int = 0
    first: list[tuple[int | str, list[tuple[str, bytes]]]] = field(default_factory=list)
    reasons: dict[str, tuple[int, list[int | str], bytes]] = field(default_factory=dict)
    earliest: int | None = None
    latest: int | None = None
    clamped: int = 0
    untimed: int = 0
    """How many messages have no time of their own."""
    values: int = 0
    roles: Counter[bytes] = field(default_factory=Counter)
    types: Counter[bytes] = field(default_factory=Counter)
    damage: str = ""
    noun: str = "line"
    repeated: int = 0
    """How many documents have the identity of another one."""
    identities: set[bytes] = field(default_factory=set)
    last: int | None = None
    """The latest time of a message so far, to which the entry ID of an older message that comes later is clamped."""

    def to_json(self) -> dict[str, Any]:
        """Turns the report of checked lines into the object that `--json` prints."""
        return {
            "translated": self.translated, "rejected": self.rejected, "empty": self.empty,
            "partial_bytes": self.partial, "damage": self.damage or None,
            "first": [{self.noun: n, "fields": {name: as_json(v) for name, v in pairs}} for n, pairs in self.first],
            "reasons": [{"reason": reason, "count": count, f"{self.noun}s": numbers, "example": as_json(example)}
                        for reason, (count, numbers, example) in self.reasons.items()],
        }  # fmt: skip

    def add(self, other: CheckReport) -> None:
        """Adds the report of another file's checked lines, whose messages stand behind those of this report."""
        for name in ("translated", "rejected", "empty", "partial", "size", "clamped", "untimed", "values", "repeated"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.first = self.first or other.first
        self.damage, self.noun = self.damage or other.damage, other.noun
        for reason, (count, numbers, example) in other.reasons.items():
            before = self.reasons.get(reason, (0, numbers, example))
            self.reasons[reason] = (before[0] + count, before[1], before[2])
        if other.earliest is not None and other.latest is not None:
            self.earliest = other.earliest if self.earliest is None else min(self.earliest, other.earliest)
            self.latest = other.latest if self.latest is None else max(self.latest, other.latest)
        self._count(self.roles, other.roles)
        self._count(self.types, other.types)

    def reject(self, reason: str, number: int | str, line: bytes) -> None:
        """Counts a checked line that does not translate under the kind of its reason."""
        self.rejected += 1
        kind = reason.partition(":")[0]
        count, numbers, example = self.reasons.get(kind, (0, [], line[:400]))
        self.reasons[kind] = (count + 1, [*numbers, number] if len(numbers) < KEPT_LINES else numbers, example)

    def take(
        self, codec: Codec, lines: list[bytes], numbers: Sequence[int | str], limit: int, first: int, *,
        cut: bool = False, now: int | None = None, timed: bool = True,
    ) -> None:  # fmt: skip
        """Checks whole messages of a log by translating them with the codec, and counts the results in the report.

        `numbers`: of the messages' first lines; `first`: how many messages the report shows; `cut`: the first message
        is the end of a longer one. `now` in ms: later times are clamped too. Not `timed`: the messages have no times.
        """
        if cut:
            self.reject(f"over max_line_bytes: the limit is {limit}", numbers[0], b"")
            lines, numbers = lines[1:], numbers[1:]
        rows, times = codec.decode(lines) if lines else ([], [])
        good = [row.__class__ is tuple and len(line) <= limit for row, line in zip(rows, lines, strict=True)]
        if not all(good):
            for line, number, row, fine in zip(lines, numbers, rows, good, strict=True):
                if fine:
                    continue
                if not line:
                    self.empty += 1
                else:
                    over = f"over max_line_bytes: a line of {len(line)} bytes, the limit is {limit}"
                    self.reject(row if isinstance(row, str) and len(line) <= limit else over, number, line)
            rows, times, numbers = [*compress(rows, good)], [*compress(times, good)], [*compress(numbers, good)]
        if not rows:
            return
        whole: list[Row] = rows  # type: ignore[assignment]
        self.took(codec, whole, numbers, first)
        if not timed:
            return
        times = [time for time in times if time]  # a message without one has the ID of the message before it
        self.untimed += len(rows) - len(times)
        if not times:
            return
        running = [*accumulate(times, max, initial=times[0] if self.last is None else self.last)][1:]
        self.clamped += sum(map(ne, running, times)) + sum(now is not None and time > now for time in times)
        self.last = running[-1]
        self.earliest = min(times) if self.earliest is None else min(self.earliest, *times)
        self.latest = max(times) if self.latest is None else max(self.latest, *times)

    def took(self, codec: Codec, rows: Sequence[Row], numbers: Sequence[int | str], first: int) -> None:
        """Counts translated messages in the report of checked lines, and keeps the first ones to show."""
        names = [name.decode() for name in codec.fields]
        for row, number in zip(rows[: max(0, first - len(self.first))], numbers, strict=False):
            self.first.append((number, list(zip(names, row, strict=True))))
        self.translated += len(rows)
        self.values += sum(len(b"".join(row)) for row in rows)
        self._count(self.roles, Counter([row[0] for row in rows]))
        self._count(self.types, Counter([row[2] for row in rows]))

    def document(self, mapping: Mapping, name: bytes, taken: ReadFile, limit: int, first: int) -> None:
        """Checks a whole file that is a message, value or artifact, by translating it, and counts it in the report."""
        self.size += taken.facts.size
        path = os.fsdecode(name)
        if mapping.kind.announced:
            kind, codec_ = type_of(taken.raw[:SNIFFED_BYTES], path), mapping.codec(path)
            row = (
                codec_.row(name, b"", kind.encode(), taken.facts.size, b"") if isinstance(codec_, ArtifactCodec) else ()
            )
            self.took(codec_, [row], [shown(name)], first)
            return
        if mapping.kind.latest:
            codec: JsonDocumentCodec | TextDocumentCodec = mapping.value(path, taken.facts.written)
        else:
            codec = mapping.document(path, taken.facts.written)
        message = codec.read(taken.raw[:limit])
        if len(taken.raw) > limit:
            self.reject(f"over max_line_bytes: the limit is {limit}", shown(name), taken.raw)
        elif isinstance(message.row, str):
            self.reject(message.row, shown(name), taken.raw)
        else:
            if message.identity is not None:
                self.repeated += message.identity in self.identities
                self.identities.add(message.identity)
            self.take(codec, [taken.raw], [shown(name)], limit, first)
            self.clamped, self.last = 0, None  # whole files are carried in the order of their times

    @staticmethod
    def _count(counter: Counter[bytes], found: Counter[bytes]) -> None:
        if len(counter) + len(found) > MOST_KINDS:
            more = Counter[bytes]()
            for value, many in found.items():
                more[value if value in counter else b"\xe2\x80\xa6"] += many
            found = more
        counter.update(found)


def is_regular(path: Path) -> bool:
    """Whether a path to be checked is a regular file, as far as this user may see."""
    try:
        return path.is_file()
    except OSError:
        return False


def check_file(mapping: Mapping, path: Path, first: int, most: int | None = None) -> CheckReport:
    """Checks how the lines of a file, or of its first `most` bytes, would translate by a mapping.

    `first`: how many messages the report shows. Raises SourceError when the file cannot be read.
    """
    codec, limit = mapping.codec(path.name), mapping.format.max_line_bytes
    result, number, end = CheckReport(), 0, 0
    opened = open_regular(path)
    if opened is None or opened.content is None:
        raise SourceError("there is no such file", where=str(path), hint="name the log, or go to its folder")
    if mapping.kind.whole_files:
        opened.close()
        return _whole(mapping, path, first)
    if mapping.kind.chunked:  # any bytes are carried, so nothing has to translate
        with closing(opened):
            result.size, result.noun = opened.size(), "chunk"
            chunks = [piece for piece in [opened.read(SHOWN_BYTES, 0)] if piece]
            result.take(codec, chunks, [1] * len(chunks), limit, first, timed=False)
            result.translated = -(-result.size // CHUNK)
        return result

    def read(size: int, offset: int) -> tuple[bytes, list[Cut], bool]:
        wanted = size if most is None else min(size, most - offset)
        data = opened.read(wanted, offset)
        result.size = max(result.size, offset + len(data))
        return data, [], len(data) == size

    try:
        if why := not_lines(opened.read(ENDS_HEAD, 0), json=mapping.of_json):
            result.damage, result.partial = f"is {why}", opened.size()
            return result
        for lines, cut in walk(read, 0, continuing(codec), limit):
            counts = [line.count(b"\n") + 1 for line in lines.lines]
            numbers = [*accumulate(counts, initial=number + 1)]
            result.take(codec, lines.lines, numbers[:-1], limit, first, cut=cut)
            number, end = numbers[-1] - 1, lines.end
        result.damage = opened.content.damage()
    finally:
        opened.close()
    result.partial = result.size - end
    return result


def check_folder(mapping: Mapping, root: Path, first: int, most: int | None = None) -> CheckReport:
    """Checks how the files of a folder mapping would translate: each file a message, value, artifact, log or context.

    All of them, or as many as hold `most` bytes. Raises SourceError when a file cannot be read.
    """
    result, limit = CheckReport(noun=mapping.noun), mapping.format.max_line_bytes
    folder = MessageFolder(root, mapping.files, mapping.source.exclude)
    if mapping.kind.appended:
        return _each_file(mapping, folder, first)
    for name in sorted(found.name for some in folder.scan() for found in some):
        if most is not None and result.size >= most:
            break
        taken = folder.read(name, limit + 1)
        if taken is not None:
            result.document(mapping, name, taken, limit, first)
    return result


def _whole(mapping: Mapping, path: Path, first: int) -> CheckReport:
    """Checks how a file that is one message, value or artifact would translate."""
    result, limit = CheckReport(noun=mapping.noun), mapping.format.max_line_bytes
    name = os.fsencode(path.name)
    taken = MessageFolder(path.resolve().parent, "*").read(name, limit + 1)
    if taken is not None:
        result.document(mapping, os.fsencode(path), taken, limit, first)
    return result


def _each_file(mapping: Mapping, folder: MessageFolder, first: int) -> CheckReport:
    """Checks every log or context file of a folder, and merges their reports into one."""
    result = CheckReport(noun=mapping.noun)
    for name in sorted(found.name for some in folder.scan() for found in some):
        result.add(check_file(mapping, Path(os.fsdecode(folder.root)) / os.fsdecode(name), first))
    return result


def continuing(codec: Codec) -> Callable[[Sequence[bytes]], list[bool]] | None:
    """Returns the function that tells which lines begin a message, for a multiline codec; None for any other codec."""
    return codec.begins if isinstance(codec, MultilineCodec) else None
