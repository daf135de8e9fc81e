"""Retention: decides which entries of a stream are over the limits, what holds up a trim, and trims the stream."""
