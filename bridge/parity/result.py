"""The result of parity for one mapping, and the verdict that its counts lead to. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bridge.core.model import ZERO_ID, EntryId, format_id
from bridge.parity.account import ByteAccount
from bridge.parity.log.classify import counts
from bridge.parity.log.generations import CutFile
from bridge.parity.log.tally import ComparisonTally
from bridge.parity.proof_point import ProofPoint
from bridge.parity.statistics import MessageStatistics
from bridge.parity.whole_file_account import WholeFileAccount


@dataclass(slots=True)
class ParityResult:
    """The result of parity for one mapping: verdict, counts, differences, positions and account.

    `notes` are in words, for people: what is to be known beside the verdict.
    """

    mapping: str
    stream: str
    verdict: str = "inconclusive"
    tally: ComparisonTally = field(default_factory=ComparisonTally)
    files: dict[str, int] = field(default_factory=dict)
    entry: EntryId = ZERO_ID
    unit: str = "byte"
    """What the positions in `files` count: byte, batch or value."""
    notes: list[str] = field(default_factory=list)
    artifacts: dict[str, int] | None = None
    """How many artifacts are present as announced, changed or gone since, or never announced; None: there are none."""
    cut: dict[str, CutFile] = field(default_factory=dict)
    """Sources whose current file is not as the bridge left it."""
    alive: bool = False
    """Whether a bridge runs."""
    too_much: list[str] = field(default_factory=list)
    """What the witness check says in words: the mirror put more bytes into a file than were born for it."""
    lost: str = ""
    """What Redis lost, in words, since the bridge last saw the stream: `bridge run` brings it back."""
    began: float = 0.0
    seconds: float = 0.0
    account: ByteAccount | WholeFileAccount | None = None
    """What became of every byte and entry; None where nothing was read."""
    stats: MessageStatistics | None = None
    onwards: bool = False
    until: ProofPoint | None = None
    """The position from which the next comparison may go on, where this one found both sides equal."""
    length: int = 0
    """Entries that stand in the stream."""
    points: list[ProofPoint] = field(default_factory=list)
    """Proof points on the way, and `until`: entries up to any of them may be trimmed. Their `added` counts up to
    there."""

    def add(self, since: ProofPoint | None) -> None:
        """Adds to a parity result what the earlier comparison counted, from whose proof point this one continued.

        Takes the digest of `until`, which chains the digests of both.
        """
        for name, number in (since.totals if since is not None else {}).items():
            setattr(self.tally, name, getattr(self.tally, name) + number)
        if since is not None and self.until is not None:
            self.tally.digest = self.until.digest

    def warnings(self) -> list[str]:
        """Says in words what a parity result warns of first: entries that Redis lost, files that were cut."""
        lost = f"Redis lost entries ({self.lost}): start `bridge run`, it fills it again from the files"
        cuts = [cut.in_words(name) for name, cut in self.cut.items()]
        return [lost] * bool(self.lost) + cuts

    def counts(self) -> dict[str, int]:
        """Counts the differences of each kind in a parity result, also those that it does not list."""
        found = counts(self.tally.differences)
        return {kind: n + self.tally.uncounted.get(kind, 0) for kind, n in found.items()}

    def to_json(self) -> dict[str, Any]:
        """Returns the result of parity for a mapping as `parity --json` prints it (DESIGN §5.4)."""
        tally = self.tally
        return {
            "mapping": self.mapping, "stream": self.stream, "verdict": self.verdict, "compared": tally.compared,
            "file_born": tally.file_born, "redis_born": tally.redis_born, "in_flight": tally.in_flight,
            "not_mirrored": tally.not_mirrored, "quarantined": tally.quarantined, "unverifiable": tally.unverifiable,
            "position": {"files": self.files, "entry": format_id(self.entry).decode()}, "digest": tally.digest,
            **({"acknowledged": known} if (known := tally.acknowledged + tally.redacted + tally.unproved) else {}),
            **({"artifacts": self.artifacts} if self.artifacts is not None else {}),
            **({"account": self.account.to_json()} if self.account is not None else {}),
            "counts": self.counts(), "differences": [difference.to_json() for difference in tally.differences],
        }  # fmt: skip


def verdict_of(tally: ComparisonTally, entries: int, before: int = 0) -> str:
    """Draws parity's verdict from a comparison's counts: equal, differs or inconclusive. Pure.

    `entries`: how many entries stand in the stream; `before`: how many messages had agreed already.
    """
    if tally.differences or (tally.uncounted and not tally.marked):
        return "differs"
    if tally.uncounted:
        return "inconclusive"  # so many are out of place that those that may be cannot be told from the others
    if any(not why.startswith("trimmed") for why in tally.why):
        return "inconclusive"
    compared = before + tally.compared
    nothing = not compared and (entries or tally.in_flight or tally.unverifiable or tally.not_mirrored)
    return "inconclusive" if nothing else "equal"


def verdict_of_all(results: Iterable[ParityResult]) -> str:
    """Draws one verdict from the parity results of all mappings. Pure.

    It is differs if one differs, and inconclusive if one is inconclusive or nothing was compared.
    """
    found = list(results)
    for verdict in ("differs", "inconclusive"):
        if any(result.verdict == verdict for result in found):
            return verdict
    return "equal" if any(result.tally.compared for result in found) else "inconclusive"
