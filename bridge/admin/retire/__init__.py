"""The end of a mapping: its files are retired, and what the bridge kept is removed."""
