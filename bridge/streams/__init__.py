"""The Redis side: connections, keys, packing, reading and writing of streams. Knows nothing of files."""
