"""Moving components from files to Redis, and back: the gate, the position, the switch (DESIGN §6.6)."""
