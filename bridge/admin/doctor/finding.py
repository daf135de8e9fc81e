"""What one check found: a verdict, the evidence for it, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bridge.core.errors import BridgeError

Verdict = Literal["good", "note", "bad", "unknown"]
"""good: nothing to do. note: worth knowing. bad: messages are at risk, or it will stop. unknown: it cannot be told."""


ServerFacts = Mapping[str, str]
"""What INFO or CONFIG GET say, by name."""

Judgement = tuple[Verdict, str, str]
"""A verdict, its evidence, and what to do."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` is its name, for a program to go by; `evidence` what was seen, `hint` what to do."""

    check: str
    verdict: Verdict
    evidence: str
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"check": self.check, "verdict": self.verdict, "evidence": self.evidence, "hint": self.hint or None}


def worst(check: str, parts: Iterable[Judgement]) -> Finding:
    """One finding of several things that were looked at: the gravest verdict, what led to it first."""
    order: list[Verdict] = ["bad", "note", "unknown", "good"]
    ranked = sorted(parts, key=lambda part: order.index(part[0]))
    if not ranked:
        return Finding(check, "good", "nothing to see")
    top = [part for part in ranked if part[0] == ranked[0][0]]
    hints = list(dict.fromkeys(part[2] for part in top if part[2]))
    return Finding(check, ranked[0][0], "; ".join(part[1] for part in ranked), "; ".join(hints))


def asked(check: str, look: Callable[[], Finding]) -> Finding:
    """The same, where looking may be refused: then it is unknown."""
    try:
        return look()
    except (BridgeError, OSError) as error:
        return Finding(check, "unknown", f"could not be looked at: {error}")
