"""Continuity of a stream over time: ownership by a ledger, lost entries, the trim floor, and the archive."""
