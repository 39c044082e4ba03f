"""Data sets: read from their source once, verified, stored with a manifest, served as batches."""
