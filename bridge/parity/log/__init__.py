"""The comparison of logs, and of other files of lines, with their stream."""
