"""Retires a mapping at the end of its migration, purges what the bridge kept for it, or lets it begin again."""
