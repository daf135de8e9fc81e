"""Repair: mends differences between files and stream, retries the quarantine, redacts, or acknowledges differences."""
