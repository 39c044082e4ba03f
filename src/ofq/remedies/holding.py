"""Held codes: the control in which no low-bit weight and no step of one ever moves."""

from torch import nn

from ofq.quant.weights import block_weights
from ofq.remedies.annealing import FrozenWeights
from ofq.remedies.base import Remedy
from ofq.runs.registry import register


@register("holding")
class HeldCodes(Remedy):
    """Remedy that holds low-bit weights and their steps where they start, so that no code ever changes.

    Norms, biases, first and last layer and the steps of activations learn. The statistics of a batch norm lag behind
    here too: what they cost here, no oscillation has caused.

    It governs all low-bit weights; under query-key reparameterization query and key weights stand still.

    Args:
        model: a quantized and calibrated model.
        steps: optimizer steps of the whole training; of no account.

    Raises:
        ValueError: the model is not quantized.
    """

    def __init__(self, model: nn.Module, steps: int) -> None:
        self._weights = FrozenWeights(model)
        self._steps = [step for weight in block_weights(model) for step in weight.quantizer.parameters()]

    def before_update(self, lr: float) -> None:
        """Remove the gradients: an optimizer skips a parameter without one, momentum and weight decay included."""
        self._weights.before_update(lr)
        for step in self._steps:
            step.grad = None
