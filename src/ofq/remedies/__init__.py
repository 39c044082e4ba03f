"""Remedies: what calms oscillating weights during training."""

from ofq.remedies.annealing import Annealing, FrozenWeights
from ofq.remedies.base import Remedy, governed_layers
from ofq.remedies.cga import ConfidenceGuidedAnnealing, confidence_mask
from ofq.remedies.dampening import Dampening
from ofq.remedies.freezing import IterativeFreezing

__all__ = [
    "Annealing",
    "ConfidenceGuidedAnnealing",
    "Dampening",
    "FrozenWeights",
    "IterativeFreezing",
    "Remedy",
    "confidence_mask",
    "governed_layers",
]
