"""The kind `spool`: a folder in which each file is a message."""
