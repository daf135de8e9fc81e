"""The tests: each module of the bridge, and scenarios that kill, cut and rotate."""
