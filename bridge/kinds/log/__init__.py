"""The kind of source `log`: one message per line, in files that programs append to and that are rotated."""
