"""How much of a stream stays: what is over, what speaks against removing it, and its removal."""
