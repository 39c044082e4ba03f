"""Families of models, a file each: what is converted, which weights are low-bit, and in which groups."""
