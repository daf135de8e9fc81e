"""`bridge demo`: runs three programs, a bridge and a server, kills the last two, and checks both sides at the end."""
