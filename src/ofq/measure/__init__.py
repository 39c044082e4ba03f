"""Measurements on finished runs, and the toy regression."""
