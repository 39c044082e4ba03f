"""Sources of randomness that depend on a text alone."""

import hashlib

import torch


def seeded(purpose: str) -> torch.Generator:
    """Return a source of randomness that depends on a text alone: the seed of a run, and what is drawn."""
    digest = hashlib.sha256(purpose.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
