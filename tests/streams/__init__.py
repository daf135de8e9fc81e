"""The server, its keys, and connections to it."""
