"""Proof point: a position up to which parity found both sides equal, so that the next run reads only later messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bridge.core.model import ZERO_ID, EntryId, format_id, hex_digest, parse_id
from bridge.files.content import HEAD_BYTES
from bridge.files.generation import TAIL
from bridge.parity.log.items import OFFSETS, SHIFT, ComparedFile

TOTALS = ("file_born", "redis_born", "not_mirrored", "quarantined", "unverifiable", "late", "unordered", "acknowledged")


@dataclass(frozen=True, slots=True)
class FilePlace:
    """The place of a proof point in a file, at the beginning of line `line`.

    `head` and `tail` are digests of the bytes before it, which must still hold.
    """

    place: int
    line: int
    head_len: int
    head: str
    tail: str

    @classmethod
    def of(cls, file: ComparedFile, place: int, line: int) -> FilePlace:
        """Records a proof point's place in a file, with the digests of the bytes that stand before it now."""
        offset = place & OFFSETS
        head = b"".join(file.section(0, min(HEAD_BYTES, offset)))
        return cls(place, line, len(head), hex_digest(head), hex_digest(_tail(file, offset)))

    def holds(self, file: ComparedFile) -> bool:
        """Whether a file holds, by the digests of head and tail, the same bytes before a proof point's place."""
        head = b"".join(file.section(0, self.head_len))
        return hex_digest(head) == self.head and hex_digest(_tail(file, self.place & OFFSETS)) == self.tail


def _tail(file: ComparedFile, offset: int) -> bytes:
    return b"".join(file.section(max(0, offset - TAIL), offset))


@dataclass(frozen=True, slots=True)
class ProofPoint:
    """A proof point: both sides are equal up to entry `last`, and the next comparison reads on behind `resume`.

    A comparison can make several. Entries between the two were in flight, or have agreed: Redis-born ones of a file up
    to `targets`, file-born ones before `places`. The stream held `length` entries, `added` were ever added, `first` is
    the oldest. `due`: the last entry whose line had to be there. `totals`: what was counted up to here. `trimmed`: so
    many entries were removed on purpose by then.
    """

    last: EntryId = ZERO_ID
    resume: EntryId = ZERO_ID
    due: EntryId = ZERO_ID
    length: int = 0
    added: int = 0
    first: EntryId = ZERO_ID
    places: Mapping[str, FilePlace] = field(default_factory=dict)
    targets: Mapping[str, EntryId] = field(default_factory=dict)
    totals: Mapping[str, int] = field(default_factory=dict)
    digest: str = ""
    trimmed: int = 0
    account: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    """What became of the bytes of each source's generations, up to this point (`bridge.parity.account`)."""

    def to_json(self) -> dict[str, Any]:
        """Returns the proof point as facts in JSON's types, for the ledger."""
        return {
            "last": format_id(self.last).decode(), "resume": format_id(self.resume).decode(),
            "due": format_id(self.due).decode(), "length": self.length, "added": self.added,
            "first": format_id(self.first).decode(),
            "places": {name: [place.place, place.line, place.head_len, place.head, place.tail]
                       for name, place in self.places.items()},
            "targets": {name: format_id(target).decode() for name, target in self.targets.items()},
            "totals": dict(self.totals), "digest": self.digest, "trimmed": self.trimmed,
            "account": {name: dict(generations) for name, generations in self.account.items()},
        }  # fmt: skip

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> ProofPoint:
        """Restores a proof point from the facts that the ledger holds.

        Raises KeyError, TypeError or ValueError when the facts are not one.
        """
        ids = {name: parse_id(facts[name].encode()) for name in ("last", "resume", "due", "first")}
        return cls(
            **ids, length=int(facts["length"]), added=int(facts["added"]),
            places={name: FilePlace(*value) for name, value in facts["places"].items()},
            targets={name: parse_id(value.encode()) for name, value in facts["targets"].items()},
            totals=facts["totals"], digest=facts["digest"], trimmed=int(facts.get("trimmed", 0)),
            account=facts.get("account", {}),
        )  # fmt: skip

    def rest(self, name: str, files: Sequence[ComparedFile]) -> list[ComparedFile] | None:
        """Returns a source's pieces from the proof point on; None when the bytes before it have changed."""
        at = self.places.get(name)
        here = next((file for file in files if at is not None and file.generation == at.place >> SHIFT), None)
        if at is not None and (here is None or not at.holds(here)):
            return None
        return self.behind(name, files)

    def behind(self, name: str, files: Sequence[ComparedFile]) -> list[ComparedFile]:
        """Returns a source's pieces from the proof point on, without verifying the bytes before it."""
        at = self.places.get(name)
        if at is None:
            return [*files]
        here = [file for file in files if file.generation == at.place >> SHIFT]
        later = [file for file in files if file.generation > at.place >> SHIFT]
        return [*(replace(file, start=at.place & OFFSETS, first=at.line) for file in here), *later]
