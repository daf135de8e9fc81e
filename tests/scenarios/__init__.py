"""Kills, lost replies, full disks, and random programs against a model, over many rooms at once."""
