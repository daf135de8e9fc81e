"""Streams and ledgers whose past is another one: backups, copies, losses."""
