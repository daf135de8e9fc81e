"""`open_log`."""
