"""Remedies: what calms oscillating weights during training."""

from ofq.remedies.base import Remedy
from ofq.remedies.cga import ConfidenceGuidedAnnealing, confidence_mask

__all__ = ["ConfidenceGuidedAnnealing", "Remedy", "confidence_mask"]
