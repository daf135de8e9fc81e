"""The file side of the bridge: follows, identifies and appends to the files of sources. Knows nothing of Redis."""
