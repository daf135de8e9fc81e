"""The client library that a component imports instead of opening a log file itself (DESIGN §6.6)."""
