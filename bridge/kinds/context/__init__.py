"""The kind `context`: a file that grows by chunks, of which each is an entry."""
