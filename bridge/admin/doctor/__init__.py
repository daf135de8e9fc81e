"""What goes wrong with files and with Redis as a local bus: seen, said, and what to do about it."""
