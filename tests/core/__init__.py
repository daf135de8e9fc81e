"""Codecs and mappings."""
