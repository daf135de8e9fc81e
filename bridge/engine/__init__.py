"""What carries: forward (file → stream), mirror (stream → file), their reconciliation, and what runs them."""
