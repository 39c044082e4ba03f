"""One run on the disk: its coordinates, its files, who holds it, what it goes on from and what it came from."""
