"""What operators asked of whoever carries and never came to decide: it lapses."""

from __future__ import annotations

from bridge.ledger import dual_writes, states
from bridge.ledger.journal import unfinished
from bridge.ledger.store import Ledger

LAPSES = 90.0
"""Seconds after which it does: by then the request to the component has."""


def unsettled(ledger: Ledger, before: float) -> list[tuple[str, float]]:
    """The components for which something was asked before then and is not settled, and since when."""
    rows = ledger.rows(
        "SELECT component, asked_at FROM state_owners WHERE asked_at < ?1"
        " UNION SELECT component, asked_at FROM twofold WHERE asked_at < ?1",
        (before,),
    )
    return [(str(component), float(at)) for component, at in rows]


def lapse(ledger: Ledger, now: float) -> None:
    """Takes back what was asked for that long ago and is in no journal. `now` in seconds since 1970."""
    kept = {facts.get("token") for _, _, facts in unfinished(ledger)}
    for token in {*states.asked_owners(ledger, now - LAPSES), *dual_writes.asked(ledger, now - LAPSES)} - kept:
        states.unask_owner(ledger, token)
        dual_writes.undo(ledger, token)
