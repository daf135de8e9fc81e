"""Parity of logs: compares log files, and other files of lines, with their Redis stream."""
