"""The proof that both sides hold the same (DESIGN §6.5): made by reading both anew, not from the bridge's books."""
