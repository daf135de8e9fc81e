"""The doctor: checks the machine, Redis and the installation for common faults, and says what to do about each."""
