"""What a component imports instead of opening the file (DESIGN §6.6)."""
