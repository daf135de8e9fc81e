"""The kind of source `artifacts`: saved files that are announced in the stream by path and digest."""
