"""What mends both sides, or says that a difference is meant."""
