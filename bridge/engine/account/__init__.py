"""The account of a mapping's files (DESIGN §6.5, P11): what became of every byte, or that it is unaccounted."""
