"""Cut-over and roll-back: moves components from files to Redis, and back: gate, position, switch (DESIGN §6.6)."""
