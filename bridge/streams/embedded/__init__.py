"""The embedded server (DESIGN §7): a real Valkey or Redis for a laptop without one, for the demo and for tests."""
