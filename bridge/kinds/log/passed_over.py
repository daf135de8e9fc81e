"""Lets forward send passed-over lines of an edited log again where Redis has lost their entries.

So the stream gets back what the files hold, also where a line stands in another file than the one it was sent from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bridge.continuity.trim_floor import passed_over
from bridge.core.codecs import Codec
from bridge.core.codecs.multiline import MultilineCodec
from bridge.core.model import Position
from bridge.files.generation import Generation
from bridge.files.lines import Cut, walk
from bridge.files.tail import Tail
from bridge.kinds.resume import Reconciliation, Resume
from bridge.ledger.acknowledgements import redacted_of
from bridge.ledger.edits import CarriedSpan, all_carried_spans, save_carried_spans
from bridge.ledger.store import Ledger
from bridge.streams.trim import TrimmedSource

LONGEST_PASSED = 1 << 28


def forget_carried(
    tail: Tail, ledger: Ledger, stream: str, number: int, codec: Codec, compared: Reconciliation
) -> None:  # fmt: skip
    """Takes lines out of the stretches that forward passed over in a log, whose entries Redis lost: they are resent.

    Inside a ledger transaction. `number` is the log's. A line is taken out when its entry is missing in the stream,
    unless the entry was trimmed or deleted on purpose, or the line stands before the place from which the log is
    filled again.
    """
    resume = compared.resume.get(tail.name, Resume())
    gone = compared.trimmed.origins.get(number, TrimmedSource(None))
    meant = passed_over(compared.trimmed)
    redacted = {Position(was.generation, was.offset) for was in redacted_of(ledger, stream, tail.name)}
    generations = {known.number: known for known in tail.records()}

    def stands(at: Position) -> bool:
        if at in redacted or (gone.low is not None and at <= gone.low) or at.offset in meant.get((number, at[0]), ()):
            return True
        if resume.behind is not None:
            return at <= resume.behind
        if resume.checkpoint is not None and resume.refill is None:
            return at < resume.checkpoint.position
        return at.offset in compared.offsets.get((number, at.generation), ())

    for which, stretches in all_carried_spans(ledger, stream).get(tail.name, {}).items():
        if which not in generations:
            continue
        held = tail.of_number(which) or tail.reopen(which)
        if held is None:
            continue
        left = [part for stretch in stretches for part in _standing(held, stretch, codec, stands)]
        if left != stretches:
            marked = [part._replace(crc=held.sum_of(part.start, part.end)) for part in left]
            save_carried_spans(ledger, stream, tail.name, which, marked)


def _standing(
    generation: Generation, stretch: CarriedSpan, codec: Codec, stands: Callable[[Position], bool]
) -> Iterator[CarriedSpan]:
    """Yields the parts of a passed-over stretch whose messages need not be sent again after Redis lost entries."""
    if not stretch.of:
        yield stretch
        return
    begin = end = -1
    for start, behind in _messages(generation, stretch, codec):
        at = Position(stretch.of, stretch.of_start + start - stretch.start)
        if not stands(at):
            continue
        if begin >= 0 and end != start:
            yield _part(stretch, begin, end)
            begin = -1
        begin, end = (begin if begin >= 0 else start), behind
    if begin >= 0:
        yield _part(stretch, begin, end)


def _part(stretch: CarriedSpan, begin: int, end: int) -> CarriedSpan:
    return CarriedSpan(begin, end, stretch.of, stretch.of_start + begin - stretch.start)


def _messages(generation: Generation, stretch: CarriedSpan, codec: Codec) -> Iterator[tuple[int, int]]:
    """Yields for each message of a passed-over stretch where the message begins and where the next one begins."""

    def read(size: int, offset: int) -> tuple[bytes, list[Cut], bool]:
        data = generation.read(min(size, stretch.end - offset), offset)
        return data, [], bool(data) and offset + len(data) < stretch.end

    begins = codec.begins if isinstance(codec, MultilineCodec) else None
    for lines, _ in walk(read, stretch.start, begins, LONGEST_PASSED):
        yield from zip(lines.offsets, lines.ends, strict=True)
