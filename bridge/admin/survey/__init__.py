"""What lies in a folder, before anything is carried: how it reads, and which mapping suits it."""
