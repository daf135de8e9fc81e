"""The bridge's local memory: one SQLite file. The only importer of sqlite_utils; one module per thing remembered."""
