"""The kind of source `context`: a file that grows by chunks, each of which becomes an entry."""
