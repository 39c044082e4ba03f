"""Remedies: what calms oscillating weights during training."""

from typing import TYPE_CHECKING

from ofq import lazy_names

if TYPE_CHECKING:
    from ofq.remedies.annealing import Annealing as Annealing
    from ofq.remedies.annealing import FrozenWeights as FrozenWeights
    from ofq.remedies.base import Remedy as Remedy
    from ofq.remedies.base import governed_layers as governed_layers
    from ofq.remedies.cga import ConfidenceGuidedAnnealing as ConfidenceGuidedAnnealing
    from ofq.remedies.confidence import confidence_mask as confidence_mask
    from ofq.remedies.dampening import Dampening as Dampening
    from ofq.remedies.freezing import IterativeFreezing as IterativeFreezing

__getattr__, __all__ = lazy_names(__file__)
