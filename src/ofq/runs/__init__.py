"""One run on the disk: its coordinates, files, locks, checkpoints, resumable state and provenance."""
