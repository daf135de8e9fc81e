"""The engine that carries messages: forward (file → stream), mirror (stream → file), reconciliation, `bridge run`."""
