"""Lets the requests for a switch lapse that an operator left in the ledger and never decided."""

from __future__ import annotations

from bridge.ledger import dual_writes, states
from bridge.ledger.journal import unfinished
from bridge.ledger.store import Ledger

LAPSES = 90.0
"""Seconds after which an undecided request for a switch lapses; the request to the component has lapsed by then."""


def unsettled(ledger: Ledger, before: float) -> list[tuple[str, float]]:
    """Reads from the ledger the components with a switch asked for before `before` and not settled, and since when."""
    rows = ledger.rows(
        "SELECT component, asked_at FROM state_owners WHERE asked_at < ?"
        " UNION SELECT component, asked_at FROM twofold WHERE asked_at < ?",
        (before, before),
    )
    return [(str(component), float(at)) for component, at in rows]


def lapse(ledger: Ledger, now: float) -> None:
    """Takes back in the ledger the requests for a switch that are older than `LAPSES` and not decided in the journal.

    `now` in seconds since 1970.
    """
    kept = {facts.get("token") for _, _, facts in unfinished(ledger)}
    for token in {*states.asked_owners(ledger, now - LAPSES), *dual_writes.asked(ledger, now - LAPSES)} - kept:
        states.unask_owner(ledger, token)
        dual_writes.undo(ledger, token)
