"""Sources of randomness that depend on a text alone."""

import hashlib

import torch


def number(purpose: str) -> int:
    """Return a number of 56 bits that depends on a text alone."""
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:7], "little")


def seeded(purpose: str) -> torch.Generator:
    """Return a source of randomness that depends on a text alone: the seed of a run, and what is drawn."""
    return torch.Generator().manual_seed(number(purpose))
