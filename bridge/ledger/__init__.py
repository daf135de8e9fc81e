"""The ledger, the bridge's local SQLite memory: one module for each kind of fact; only this uses sqlite_utils."""
