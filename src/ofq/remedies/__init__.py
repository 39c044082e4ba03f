"""Remedies: what calms oscillating weights during training."""

from typing import TYPE_CHECKING

from ofq import lazy_names

if TYPE_CHECKING:
    from ofq.remedies.annealing import Annealing, FrozenWeights
    from ofq.remedies.base import Remedy, governed_layers
    from ofq.remedies.cga import ConfidenceGuidedAnnealing
    from ofq.remedies.confidence import confidence_mask
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

__getattr__ = lazy_names(
    {
        "Annealing": "ofq.remedies.annealing",
        "FrozenWeights": "ofq.remedies.annealing",
        "Remedy": "ofq.remedies.base",
        "governed_layers": "ofq.remedies.base",
        "ConfidenceGuidedAnnealing": "ofq.remedies.cga",
        "confidence_mask": "ofq.remedies.confidence",
        "Dampening": "ofq.remedies.dampening",
        "IterativeFreezing": "ofq.remedies.freezing",
    }
)
