"""Compares checkpoints and stream (DESIGN §6.1, P8) to find what Redis lost and where each source goes on.

Lost is different from trimmed. Redis has lost something when the stream's last ID, its count of entries ever added, or
its checkpoint has gone back to before what the ledger saw; what is missing otherwise was removed on purpose.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from bridge.continuity.lost_entries import began_anew, missing_entries, what_was_lost
from bridge.continuity.trim_floor import last_of, passed_over
from bridge.core.model import (
    FIELDS,
    NO_BYTES,
    ZERO_ID,
    Checkpoint,
    EntryId,
    Origin,
    Position,
    after,
    paired,
    parse_id,
)
from bridge.kinds.resume import NewestStanding, Reconciliation, Resume
from bridge.ledger.seen_entries import SeenEntry
from bridge.ledger.sources import SourceMemory, StreamMemory
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.reader import StreamInfo, existing, file_born
from bridge.streams.stream_metadata import StreamMetadata
from bridge.streams.trim import TrimmedSource, TrimState, read_all, trimmed_to


def in_words(compared: Reconciliation, stream: str) -> list[str]:
    """Says for the log what a comparison of checkpoints and stream found out of order, a sentence each. Pure."""
    said = []
    if compared.lost:
        said.append(f"{stream}: Redis lost its tail: {compared.lost}; it is refilled from the files")
    if compared.ahead:
        many = "1 entry names a line" if compared.ahead == 1 else f"{compared.ahead} entries name lines"
        said.append(f"{stream}: {many} that had not been sent: passed over, and all others are sent")
    if compared.strangers:
        said.append(
            f"{stream}: {compared.strangers} entries name an origin at which their file holds no such line;"
            " they do not move the cursor"
        )
    return said


def _copied(
    connection: Connection, keys: Keys, memory: StreamMemory, info: StreamInfo, books: StreamMetadata, floor: EntryId
) -> bool:
    """Whether the compared stream is an older copy, or a copy that lost its tail, and not a stream that began anew.

    A copy begins where the stream did, or before, and holds entries that the stream metadata names. A new stream may
    hold such entries too, which were sent before anybody saw that it is new.
    """
    if info.first_id > memory.first_id > ZERO_ID or (memory.first_id == ZERO_ID and began_anew(memory, info)):
        return False
    noted = [Checkpoint.from_json(raw).entry for raw in books.checkpoint.values()]
    noted += [parse_id(json.loads(raw)["id"].encode()) for raw in books.mirror.values()]
    known = [entry_id for entry_id in noted if entry_id is not None]
    if not info.length:
        return False
    return any(entry_id < floor for entry_id in known) or bool(existing(connection, keys.stream, known))


class CheckpointVoucher(Protocol):
    """A function of a source that tells whether the source can have sent what its checkpoint says."""

    def __call__(self, checkpoint: Checkpoint, *, seen: bool) -> bool:
        """Whether the source can have sent just what `checkpoint` says; `seen`: the ledger has this checkpoint."""


Vouch = Callable[[Origin, list[bytes]], bool]
"""Tells whether an entry's origin can be true: its source's file holds there the line that the entry was made of."""


def reconcile_checkpoints(
    connection: Connection, keys: Keys, memory: StreamMemory | None, sources: dict[str, SourceMemory], vouch: Vouch,
    kept: TrimState | None = None, seen: Sequence[SeenEntry] = (),
    known: Mapping[str, CheckpointVoucher] | None = None,
) -> Reconciliation:  # fmt: skip
    """Compares checkpoints and ledger with the stream, finds what Redis lost, and decides where each source goes on.

    Nothing lost: a source goes on at its checkpoint, passing over what stands in the stream beyond it (an evicted
    checkpoint, rights that let the entries in and kept the checkpoint out, an origin that somebody else named). Lost:
    behind its highest origin that still stands; or, where the stream began anew and others wrote into it before that
    was seen, from the beginning, passing over what stands. Anybody can write an origin, so one that moves the cursor
    has to be vouched for. `kept` is what was trimmed on purpose, as the ledger has it: never is anything sent from
    below that. `known`, by names, tells whether a source knows what its checkpoint says was sent.
    """
    info, books, now = read_all(connection, keys)
    forked, standing_seen = missing_entries(connection, keys, seen, info, now.floor)
    lost = what_was_lost(memory, sources, info, books) or forked or _unknown(sources, books, known or {})
    anew = bool(lost) and memory is not None and not _copied(connection, keys, memory, info, books, now.floor)
    filling = any(source.refill is not None for source in sources.values())
    start = b"-" if lost or filling or memory is None else after(memory.last_id)
    behind = anew and kept is not None
    floor = kept if kept is not None and behind else now
    trimmed = ZERO_ID if anew else trimmed_to(connection, keys, info)
    best = {
        source_memory.number: _best(name, source_memory, books, lost) or Checkpoint(0, NO_BYTES)
        for name, source_memory in sources.items()
    }
    standing: NewestStanding = {}
    offsets: dict[tuple[int, int], set[int]] = {}
    sizes: dict[tuple[int, int], dict[int, int]] = {}
    strangers = 0

    def walk(*, all_vouched: bool) -> None:
        nonlocal strangers
        standing.clear()
        offsets.clear()
        sizes.clear()
        for entry, origin in file_born(connection, keys.stream, start) if info.length else ():
            where = (origin.source, origin.generation)
            if origin.source not in best:
                continue
            if all_vouched and not vouch(origin, entry.fields):
                strangers += 1
                continue
            high, further = where not in standing or origin.offset >= standing[where][0], beyond(where, origin.offset)
            if high:
                standing[where] = origin.offset, entry.id
            if lost or filling or further:
                offsets.setdefault(where, set()).add(origin.offset)
            if high or further:
                size, of = data_size(entry.fields), sizes.setdefault(where, {})
                if not further:  # before the checkpoint only the highest counts
                    of.clear()
                of[origin.offset] = max(size, of.get(origin.offset, 0))

    def beyond(where: tuple[int, int], offset: int) -> bool:
        closed = books.generations.get(b"%d.%d" % where)
        end = best[where[0]].position if closed is None else Position(where[1], int(json.loads(closed)["size"]))
        return Position(where[1], offset) >= end

    def vouched(where: tuple[int, int], offset: int, entry_id: EntryId) -> bool:
        fields = existing(connection, keys.stream, [entry_id]).get(entry_id)
        return fields is None or vouch(Origin(*where, offset), fields)

    walk(all_vouched=anew or filling)
    if not all(vouched(where, *high) for where, high in standing.items() if lost or beyond(where, high[0])):
        walk(all_vouched=True)
    furthest = {name: _best(name, source, books, lost) for name, source in sources.items()}
    if lost:  # a checkpoint holds if its batch's last entry stands, or was trimmed on purpose
        noted = [
            known_checkpoint.entry
            for known_checkpoint in furthest.values()
            if known_checkpoint is not None and known_checkpoint.entry is not None
        ]
        stands = existing(connection, keys.stream, noted) if not anew else {}
        for name, checkpoint in furthest.items():
            if (
                checkpoint is not None
                and checkpoint.entry not in stands
                and not (checkpoint.entry and checkpoint.entry <= info.last_id and checkpoint.entry < trimmed)
            ):
                furthest[name] = None
    resume = {name: _resume(source, furthest[name], lost, anew, standing) for name, source in sources.items()}
    for name, source in sources.items() if behind else ():
        gone = floor.origins.get(source.number, TrimmedSource(None))
        refill = last_of((resume[name].refill, *gone.beyond))
        resume[name] = replace(resume[name], behind=last_of((resume[name].behind, gone.low)), refill=refill)
    for where, some in passed_over(floor).items() if behind or filling else ():
        offsets.setdefault(where, set()).update(some)
    ahead = 0 if lost or filling else sum(map(len, offsets.values()))
    return Reconciliation(
        books, info, lost, anew, strangers, ahead, resume, standing, offsets, sizes, floor, behind, bool(forked),
        standing_seen, min((entry for entry, _ in seen if entry not in standing_seen), default=None),
    )  # fmt: skip


def data_size(fields: list[bytes]) -> int:
    """Returns how many bytes of data an entry has, for the comparison of checkpoint and stream; 0: it has none."""
    return len(paired(fields).get(FIELDS[3], b""))


def _unknown(sources: dict[str, SourceMemory], books: StreamMetadata, known: Mapping[str, CheckpointVoucher]) -> str:
    """Compares checkpoints with what their sources sent, and says in words which is of another past; empty: none."""
    for name, knows in known.items():
        raw = books.checkpoint.get(os.fsencode(name))
        checkpoint = Checkpoint.from_json(raw) if raw else Checkpoint(0, NO_BYTES)
        if not knows(checkpoint, seen=name in sources and sources[name].stored == raw):
            return f"its checkpoint of {name} is not of what the ledger knows to have been sent"
    return ""


def _best(name: str, source: SourceMemory, books: StreamMetadata, lost: str) -> Checkpoint | None:
    """Returns, for the comparison, a source's furthest checkpoint: Redis's, or the ledger's copy if nothing is lost."""
    raw = books.checkpoint.get(os.fsencode(name))
    best = Checkpoint.from_json(raw) if raw else None
    if not lost and source.stored:
        ours = Checkpoint.from_json(source.stored)
        best = ours if best is None or ours.position > best.position else best
    return best


def _resume(source: SourceMemory, best: Checkpoint | None, lost: str, anew: bool, standing: NewestStanding) -> Resume:
    high = max((Position(g, o) for (s, g), (o, _) in standing.items() if s == source.number), default=None)
    if anew and high is not None:
        return Resume(refill=high)
    if source.refill is not None and not lost:
        return Resume(best, refill=source.refill)
    if high is not None and (best is None or high >= best.position):
        return Resume(best, high) if lost else Resume(best, refill=high)
    return Resume(best)
