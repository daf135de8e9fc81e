"""A finding, the result of one check of the doctor: its verdict, the evidence for that, and a hint what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bridge.core.errors import BridgeError

Verdict = Literal["good", "note", "bad", "unknown"]
"""The verdict of a finding. good: nothing to do. note: worth knowing. bad: messages are at risk, or the bridge will
stop. unknown: the check could not tell."""


ServerFacts = Mapping[str, str]
"""The values that Redis's INFO or CONFIG GET reports, by name."""

Judgement = tuple[Verdict, str, str]
"""One part of a finding: a verdict, its evidence, and what to do."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Holds the finding of one check of the doctor: the check's name, the verdict, the evidence and a hint.

    `check` is the name by which a program recognizes the check; `evidence` says what was seen, `hint` what to do.
    """

    check: str
    verdict: Verdict
    evidence: str
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        """Turns a finding of the doctor into the object that `bridge doctor --json` prints."""
        return {"check": self.check, "verdict": self.verdict, "evidence": self.evidence, "hint": self.hint or None}


TOLD = 12
"""Most judgements that the finding of one check tells of."""


def worst(check: str, parts: Iterable[Judgement]) -> Finding:
    """Merges several judgements of one check into a single finding that has the worst of their verdicts.

    The evidence of the worst judgements comes first, and of many only some; the hints are theirs alone. Without
    judgements it is "good".
    """
    order: list[Verdict] = ["bad", "note", "unknown", "good"]
    ranked = sorted(parts, key=lambda part: order.index(part[0]))
    if not ranked:
        return Finding(check, "good", "nothing to see")
    top = [part for part in ranked if part[0] == ranked[0][0]]
    hints = list(dict.fromkeys(part[2] for part in top if part[2]))
    told = [part[1] for part in ranked[:TOLD]]
    if len(ranked) > len(told):
        told.append(f"and {len(ranked) - len(told):,} more")
    return Finding(check, ranked[0][0], "; ".join(told), "; ".join(hints[:TOLD]))


def asked(check: str, look: Callable[[], Finding]) -> Finding:
    """Runs one check of the doctor, and makes a finding with the verdict "unknown" where looking fails.

    `look` fails by a BridgeError or an OSError: Redis refused a command, or the system a file.
    """
    try:
        return look()
    except (BridgeError, OSError) as error:
        return Finding(check, "unknown", f"could not be looked at: {error}")
