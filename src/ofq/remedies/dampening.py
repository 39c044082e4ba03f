"""Oscillation dampening: a loss that pulls every weight to the level that it is rounded to."""

import math

import torch
from torch import Tensor, nn

from ofq.quant.families.base import WeightLayer
from ofq.remedies.base import Remedy, annealed, check_schedule, governed_layers, weight_quantizer
from ofq.runs.registry import register


def dampening_errors(w: Tensor, levels: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the squared distance of each weight to its level, (levels - min(max(w, low), high))^2, in w's shape.

    Weights beyond the outermost levels count as if they were on these, and get no gradient.

    Args:
        w: latent weight.
        levels: quantized weight, same shape.
        low: smallest level, broadcasts against w.
        high: largest level, broadcasts against w.

    Source: tests/golden/README.md sections 8 and 11; Nagel et al. 2022, section 4.1.
    """
    return (levels - torch.minimum(torch.maximum(w, low), high)).square()


@register("dampening")
class Dampening(Remedy):
    """Remedy with a loss that pulls latent weights to their bin centres, away from the rounding thresholds.

    Let Q(W) be the quantized weight of a layer and E its :func:`dampening_errors`:

        loss = lambda(t) * sum over layers of (sum over output rows, mean over what one row has) of E

    Q(W) and the steps are constants in it, so only latent weights get a gradient, 2*lambda*(w - Q(w))/M inside the
    grid, M weights in a row; of a convolution (O, I, h, w) a row is an output channel, and M = I*h*w. The outermost
    levels are step*(code + offset) of the smallest and the largest code. On a mid-rise grid (StatsQ, lsq-midrise)
    offset is 1/2, so the bin centres lie between the multiples of the step. StatsQ's step is that of the weights as
    they are. lambda(t) is 0 in the first part of the training, then rises along half a cosine, see
    :func:`ofq.remedies.base.annealed`.

    It governs the layers of :func:`ofq.remedies.base.governed_layers`, and more if asked.

    Args:
        model: a quantized and calibrated model.
        steps: optimizer steps of the whole training.
        weight: lambda at the last step.
        start: share of the steps before lambda begins to change.
        first_weight: lambda until then.
        everywhere: whether the loss has terms of the first and the last layer too, as in the released code.

    Raises:
        ValueError: an argument out of range, or the model is not quantized.

    Source: Nagel et al. 2022, section 4.1; the aggregate and the schedule as in its released code
    (tests/golden/README.md section 11).
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int,
        *,
        weight: float = 0.1,
        start: float = 0.25,
        first_weight: float = 0.0,
        everywhere: bool = False,
    ) -> None:
        check_schedule(steps, start)
        for name, value in (("weight", weight), ("first_weight", first_weight)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, not {value}")
        self.weight, self.first_weight, self.start, self.steps = weight, first_weight, start, steps
        self._layers = list(governed_layers(model).values())
        if everywhere:
            every = (each for each in model.modules() if isinstance(each, WeightLayer))
            self._layers = [each for each in every if each.weight_quantizer is not None]
        self._step = 0
        self._errors: Tensor | None = None  # of the last step, not yet weighted

    def loss(self) -> Tensor | None:
        """Return the term of this step, or None while lambda is 0, so that a weight of 0 changes no number."""
        weight = self._weight(self._step + 1)
        if weight == 0:
            return None
        # Per layer (rows, columns), or (O, I, h, w), to one row to (); then (layers,) to ()
        errors = torch.stack([self._layer_errors(layer).sum(0).mean() for layer in self._layers]).sum()
        self._errors = errors.detach()
        return weight * errors

    def after_update(self, lr: float) -> None:
        """Count the step."""
        self._step += 1

    def metrics(self) -> dict[str, float]:
        """Return ``dampening/weight`` (lambda) and ``dampening/errors`` (the sum that it weighs) of the last step."""
        if self._errors is None:
            return {}
        return {"dampening/weight": self._weight(self._step), "dampening/errors": self._errors.item()}

    def state_dict(self) -> dict[str, int]:
        """Return the number of steps done."""
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the step at which :meth:`state_dict` was taken."""
        self._step = state["step"]

    def _weight(self, step: int) -> float:
        return annealed(step, self.steps, start=self.start, first=self.first_weight, last=self.weight)

    @staticmethod
    def _layer_errors(layer: WeightLayer) -> Tensor:
        quantizer = weight_quantizer(layer)
        with torch.no_grad():
            values, _, step, shift = quantizer.rounded(layer.weight)
            low, high = (step * (code + shift) for code in quantizer.levels())
        return dampening_errors(layer.weight, values, low, high)
