"""Switches, the gate, who owns a state."""
