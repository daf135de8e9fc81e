"""Parity: proves that files and Redis stream hold the same messages, by reading both sides anew (DESIGN §6.5).

The proof does not rest on the bridge's keys.
"""
