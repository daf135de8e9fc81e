"""Tailing: generations, rotation, compressed pieces, alignment."""
