"""The kind of source `spool`: a folder in which each file is one message."""
