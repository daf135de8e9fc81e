"""The new bank: connections, keys, packing, writing and reading streams. Knows nothing of files."""
