"""What operators asked of whoever carries and never came to decide: it lapses."""

from __future__ import annotations

from bridge.ledger import state, twofold
from bridge.ledger.journal import unfinished
from bridge.ledger.store import Ledger

LAPSES = 90.0
"""Seconds after which it does: by then the request to the component has."""


def lapse(ledger: Ledger, now: float) -> None:
    """Takes back what was asked for that long ago and is in no journal. `now` in seconds since 1970."""
    kept = {(stream, str(facts.get("component"))) for _, stream, facts in unfinished(ledger)}
    for stream, component in state.asked_owners(ledger, now - LAPSES):
        if (stream, component) not in kept:
            state.settle_owner(ledger, stream, made=False)
    for stream, component in twofold.asked(ledger, now - LAPSES):
        if (stream, component) not in kept:
            twofold.undo(ledger, stream, component)
