"""`bridge demo`: three programs, a bridge and a server, two of them killed, and a check of the raw sides at the end."""
