"""The ledger's layout."""
