"""What carries: runs, imports, the merge, the account, the status."""
