"""Fused counterparts of the modules: the same numbers from fewer passes over memory."""
