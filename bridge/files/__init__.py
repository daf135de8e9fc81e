"""The old bank: following, identifying and appending to files. Knows nothing of Redis."""
