"""What holds a stream together over time: which ledger owns it, what Redis lost of it, what was trimmed and kept."""
