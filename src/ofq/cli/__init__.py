"""``python -m ofq``."""
