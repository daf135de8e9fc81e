"""The proof that both sides agree, and what convicts it."""
