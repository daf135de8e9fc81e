"""Carries append-only files into Redis Streams and back, exactly once, while both are in use."""

__version__ = "0.1.0"
