"""The file reader: reads a mapping's files for a component, through rotation, from an exact position, without Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from bridge.client.bookmark import Bookmark, SourcePosition
from bridge.client.message import Message, made
from bridge.client.start import Start
from bridge.core.codecs import Codec
from bridge.core.codecs.multiline import MultilineCodec
from bridge.core.errors import ConfigError
from bridge.core.logger import logger
from bridge.core.model import Fingerprint, Position, hex_digest
from bridge.files.closed_generations import KEPT_LATE
from bridge.files.generation import TAIL, Generation
from bridge.files.generation_record import GenerationRecord
from bridge.files.lines import grouped, split
from bridge.files.tail import Tail
from bridge.kinds.mapping_context import MappingContext

READ_BLOCK = 1 << 16


@dataclass(slots=True)
class FollowedFile:
    """A source that a component's file reader follows, with its tail and its codec.

    `cut`: the bytes that come next are the end of a line that was over the limit.
    """

    tail: Tail
    codec: Codec
    cut: bool = False


@dataclass(slots=True)
class DeliveredMessage:
    """A message that the file reader hands to a component, and where the reader stands when the message is done.

    `name`, `number` and `at` are the source, its generation, and the digests of that there. `begin`: the byte at which
    the message begins. `time`: of the message, in milliseconds since 1970.
    """

    message: Message
    name: str
    number: int
    at: Fingerprint
    begin: int
    time: int


@dataclass(slots=True)
class _Heads:
    """Computes for the file reader the digest of a generation's first bytes, and keeps the last one for reuse."""

    known: dict[tuple[bytes, int], str] = field(default_factory=dict)

    def of(self, head: bytes, length: int) -> str:
        found = self.known.get((head, length))
        if found is None:
            self.known.clear()
            found = self.known[head, length] = hex_digest(head[:length])
        return found


class FileReader:
    """Reads a mapping's files for one component, message by message, from the places in the component's bookmark on.

    A file reader is made from a bookmark whose lock is held, and thrown away when the component reads elsewhere.
    """

    def __init__(
        self, shared: MappingContext, bookmark: Bookmark, clock: Callable[[], float], *, unclean: bool = False
    ) -> None:
        self._shared = shared
        self._bookmark = bookmark
        self._clock = clock
        self._limit = shared.mapping.format.max_line_bytes
        self._sources: dict[str, FollowedFile] = {}
        self._heads = _Heads()
        self._turn = 0

    def begin(self, start: Start) -> None:
        """Notes in the component's bookmark that the file reader has read what stands before the start.

        The file reader is of no use after that, but to be closed. Raises ConfigError: that is no place in the files.
        """
        if start.entry is not None:
            said = "a component that reads files cannot start at an entry"
            raise ConfigError(said, hint="`bridge locate` tells its place in the file")
        names = self._names()
        if start.offset is not None and len(names) != 1:
            raise ConfigError(f"an offset names no place in {len(names)} logs", hint="say a time")
        for name in names:
            if start.ms is not None:
                self._pass_until(name, start.ms)
            elif start.at_end or start.offset is not None:
                self._pass_to(name, start.offset)
        self._bookmark.save()

    def _pass_to(self, name: str, offset: int | None) -> None:
        """Has the file reader pass over a log up to a line at an offset of its current file; None: up to its end."""
        source = self._source(name)
        source.tail.look()
        while source.tail.finish() is not None:
            pass
        self._know(name, source.tail)
        last = source.tail.first()
        if last is None:
            return
        end = last.size() if offset is None else offset
        back = source.tail.read(last, min(end, self._limit), max(0, end - self._limit))
        whole = end - (len(back) - back.rfind(b"\n") - 1)
        if offset is not None and (end > last.size() or whole != end):
            raise ConfigError(f"no line begins at byte {offset:,}", where=name, hint=f"one begins at {whole:,}")
        source.tail.pass_over(last, whole)
        self._bookmark.note(name, last.number, last.fingerprint())

    def _pass_until(self, name: str, ms: int) -> None:
        """Has the file reader pass over a log's messages up to the first of this time, in ms since 1970, or later."""
        source, last = self._source(name), None
        while found := self._of(name, source):
            upto = next((i for i, given in enumerate(found) if given.time >= ms), len(found))
            last = found[upto - 1] if upto else last
            if upto < len(found):
                break
        if last is not None:
            self._bookmark.note(name, last.number, last.at)

    def waiting(self) -> int:
        """Counts the bytes of the component's files that the file reader has not read yet. Raises SourceError."""
        total = 0
        for name in self._names():
            tail = self._source(name).tail
            tail.look()
            total += sum(generation.left() for generation in tail.pending())
        return total

    def take(self) -> list[DeliveredMessage]:
        """Returns the file reader's next messages, of one source; none when no file has anything new.

        All messages that were given before have been acknowledged by now. Raises SourceError.
        """
        names = self._names()
        for i in range(len(names)):
            name = names[(self._turn + i) % len(names)]
            found = self._of(name, self._source(name))
            if found:
                self._turn += i + 1
                return found
        return []

    def done(self, given: DeliveredMessage) -> None:
        """Notes in the bookmark that the component has acknowledged a message which the file reader gave it.

        Raises BridgeError: the bookmark cannot be written.
        """
        self._bookmark.note(given.name, given.number, given.at)
        if given.name in self._bookmark.marks.unclean:
            self._bookmark.marks.unclean.remove(given.name)
            self._bookmark.save()
        place = self._bookmark.marks.places[given.name]
        spans = (*place.skip, *place.again)
        if spans and all((span.generation, span.end) <= (given.number, given.at.offset) for span in spans):
            self._bookmark.marks.places[given.name] = replace(place, skip=(), again=())
            self._bookmark.save()

    def close(self) -> None:
        """Closes all files that the file reader follows."""
        for source in self._sources.values():
            source.tail.close()
        self._sources.clear()

    # -- sources ---------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        return names_of(self._shared, self._bookmark.marks.places)

    def _source(self, name: str) -> FollowedFile:
        if name not in self._sources:
            place = self._bookmark.marks.places.setdefault(name, SourcePosition())
            tail = self._shared.new_tail(name, list(place.generations))
            self._sources[name] = FollowedFile(tail, self._shared.mapping.codec(name))
        return self._sources[name]

    def _know(self, name: str, tail: Tail) -> None:
        """Writes into the component's bookmark the generations that the file reader met first now, or that ended.

        That is done before a message of a new generation is handed out.
        """
        for notice in tail.notices:
            logger.info("%s", notice)
        tail.notices.clear()
        if not tail.news:
            return
        tail.news.clear()
        place = self._bookmark.marks.places[name]
        before = {generation.number: generation for generation in place.generations}
        records = tail.records()
        oldest = max([record.number for record in records if record.closed], default=0) - KEPT_LATE
        kept = [record for record in records if not record.closed or record.number > oldest]
        known = tuple(self._merged(before.get(record.number), record) for record in kept)
        self._bookmark.marks.places[name] = replace(place, generations=known)
        self._bookmark.save()

    @staticmethod
    def _merged(before: GenerationRecord | None, now: GenerationRecord) -> GenerationRecord:
        """Merges the file reader's new record of a generation with the bookmark's, and keeps how far it was read."""
        if before is None:
            return now
        return now if now.closed or before.at.head_len == 0 else now.at_place(before.at)

    # -- messages --------------------------------------------------------------------------------------------

    def _of(self, name: str, source: FollowedFile) -> list[DeliveredMessage]:
        tail = source.tail
        tail.look()
        self._know(name, tail)
        while (generation := tail.first()) is not None:
            found, waits = self._read(name, source, generation)
            if found or waits:
                return found
            record = tail.finish()
            if record is None:
                break
            source.cut = False
            tail.news.append(record)
            self._know(name, tail)
        for generation in tail.late():
            found, _ = self._read(name, source, generation)
            if found:
                return found
        return []

    def _read(self, name: str, source: FollowedFile, generation: Generation) -> tuple[list[DeliveredMessage], bool]:
        """Reads a generation's next messages for the file reader and moves past them; tells if more will come soon.

        The second value is True where a last message may go on for a moment, so that nothing after it is to be read
        yet.
        """
        size = READ_BLOCK
        while True:
            start, before = generation.read_to, generation.tail
            raw = source.tail.peek(generation, size)
            if not raw:
                return [], False
            if not start:
                source.tail.introduce(generation)
                self._know(name, source.tail)
            lines, waits = split(raw, start, []), False
            if isinstance(source.codec, MultilineCodec) and lines.lines:
                ended = len(raw) < size and self._settled(source.tail, generation)
                whole = grouped(lines, source.codec.begins(lines.lines), self._limit, ended=ended)
                lines, waits = whole, not ended and len(raw) < size
            if not lines.lines:
                if len(raw) < size:
                    return [], waits
                if len(raw) > self._limit:  # a line over the limit is passed over, up to its end
                    source.tail.advance(generation, raw)
                    source.cut = True
                    continue
                size *= 4
                continue
            texts, offsets, ends = lines.lines, lines.offsets, lines.ends
            if source.cut:
                texts, offsets, ends, source.cut = texts[1:], offsets[1:], ends[1:], False
            found = self._messages(name, source, generation, before + raw, start - len(before), texts, offsets, ends)
            source.tail.advance(generation, raw[: lines.end - start])
            if found:
                return found, False

    def _messages(
        self, name: str, source: FollowedFile, generation: Generation, data: bytes, begin: int, texts: list[bytes],
        offsets: list[int], ends: list[int],
    ) -> list[DeliveredMessage]:  # fmt: skip
        place, number = self._bookmark.marks.places[name], generation.number
        unclean = self._bookmark.marks.unclean
        generation.extend_head()
        found: list[DeliveredMessage] = []
        decoded = source.codec.decode(texts)
        for text, row, time, offset, end in zip(texts, *decoded, offsets, ends, strict=True):
            at = Position(number, offset)
            if isinstance(row, str) or len(text) > self._limit or place.skips(at):
                continue
            values = dict(zip(source.codec.fields, row, strict=True))
            again = (name in unclean and not found) or place.repeats(at)
            message = made(values, f"{name}:{number}:{offset}", redelivered=again)
            length = min(len(generation.head), end)
            back = data[max(0, end - TAIL - begin) : end - begin]
            head = self._heads.of(generation.head, length)
            found.append(
                DeliveredMessage(message, name, number, Fingerprint(end, length, head, hex_digest(back)), offset, time)
            )
        return found

    def _settled(self, tail: Tail, generation: Generation) -> bool:
        """Whether a generation's last message is complete for the file reader: nothing more can belong to it.

        So it is where the generation is packed, is not the current one, or was not written to for `settle_ms`.
        """
        if generation.packed or tail.current() is not generation:
            return True
        return self._clock() - generation.written() / 1e9 >= self._shared.mapping.source.settle_ms / 1000


def names_of(shared: MappingContext, known: Iterable[str]) -> list[str]:
    """Lists the files of a mapping that a component's file reader reads: its sources, and the mirror's other files."""
    names = shared.source_names(known)
    mirror = shared.mapping.mirror
    if mirror is None:
        return names
    paths = [mirror.path]
    if "{role}" in mirror.path:
        paths = [mirror.path.replace("{role}", role) for role in sorted(shared.settings.roles)]
    return names + [path for path in paths if path not in names and (shared.settings.root / path).is_file()]
