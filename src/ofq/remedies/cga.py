"""Confidence-guided annealing (CGA): freeze every weight that is far from a rounding threshold."""

from collections.abc import Iterable
from numbers import Real

import torch
from torch import Tensor, nn

from ofq.oscillation.thresholds import threshold_distance
from ofq.quant.families.base import WeightLayer
from ofq.quant.quantizers.base import wide
from ofq.remedies.annealing import Annealing, query_key_weights
from ofq.remedies.base import weight_quantizer


class ConfidenceGuidedAnnealing(Annealing):
    """Annealing in which only the weights near a rounding threshold train; the others do not move by a bit.

    At each step the mask is taken from the weights before it, the gradients of frozen weights are set to zero, the
    optimizer steps with its momentum and weight decay, and frozen weights are put back. The quantizers' steps follow
    the free weights, so the quantized value of a frozen weight may change; its latent value does not.

    It governs the layers of :func:`ofq.remedies.base.governed_layers`, whatever their weight quantizer.

    Args:
        model: a quantized and calibrated model.
        boundary_range: half-width r of the band around each threshold in which weights train, in code steps.
        freeze_qk: whether ``q.weight`` and ``k.weight`` are frozen entirely under query-key reparameterization. No
            mask on them could hold the codes of their product; the released code lets them train.

    Raises:
        ValueError: not 0 <= boundary_range < 0.5, or the model is not quantized.

    Source: tests/golden/README.md section 6; OFQ paper section 3 (CGA).
    """

    def __init__(self, model: nn.Module, boundary_range: float, *, freeze_qk: bool = True) -> None:
        check_range(boundary_range)
        super().__init__(model)
        self.boundary_range = boundary_range
        self._still = query_key_weights(model) if freeze_qk else []
        # A small weight does not fill a card, and each operation on it costs a start; a processor's cache holds one.
        self._stacks = stacks(self.layers.values(), together=next(model.parameters()).device.type != "cpu")
        self._frozen: list[Tensor] = []
        self._before: list[Tensor] = []

    @torch.no_grad()
    def before_update(self, lr: float) -> None:
        """Take the masks, zero the gradients of frozen weights, and remember the values of all."""
        found: dict[WeightLayer, tuple[Tensor, Tensor]] = {}
        for layers in self._stacks:
            before = torch.stack([layer.weight for layer in layers])  # (layers, *shape)
            frozen = far_from_thresholds(_positions(layers, before), self.boundary_range)
            found |= dict(zip(layers, zip(frozen, before, strict=True), strict=True))
        self._frozen, self._before = [], []
        for layer in self.layers.values():
            frozen, before = found[layer]
            if layer.weight.grad is not None:
                layer.weight.grad.masked_fill_(frozen, 0.0)  # no product: 0*inf would reach Adam's moments as NaN
            self._frozen.append(frozen)
            self._before.append(before)
        for weight in self._still:
            weight.grad = None  # an optimizer skips a parameter without gradient, weight decay included

    @torch.no_grad()
    def after_update(self, lr: float) -> None:
        """Put frozen weights back bit for bit; do nothing without a :meth:`before_update` first."""
        for layer, frozen, before in zip(self.layers.values(), self._frozen, self._before, strict=False):
            torch.where(frozen, before, layer.weight, out=layer.weight)
        self._before = []

    def metrics(self) -> dict[str, float]:
        """Return ``cga/free_share``, the percentage of the governed weights that were free at the last step."""
        if not self._frozen:
            return {}
        return {"cga/free_share": 100 * sum(self.free()) / sum(mask.numel() for mask in self._frozen)}

    def free(self) -> list[int]:
        """Return how many weights of each governed layer were free at the last step."""
        # (layers,)
        counts: list[int] = torch.stack([mask.logical_not().sum() for mask in self._frozen]).tolist()
        return counts


def check_range(boundary_range: float) -> None:
    """Raise ValueError unless 0 <= boundary_range < 0.5, in code steps."""
    if not isinstance(boundary_range, Real) or not 0 <= boundary_range < 0.5:
        raise ValueError(f"boundary_range must be at least 0 and below 0.5 code steps, not {boundary_range!r}")


def far_from_thresholds(u: Tensor, boundary_range: float) -> Tensor:
    """Return True where no threshold between occurring codes is within the range of the unrounded code u.

    Args:
        u: of several weights of one shape, (weights, *shape).
        boundary_range: in code steps.
    """
    inside_of_one = list(range(1, u.ndim))
    smallest, largest = u.amin(inside_of_one, keepdim=True), u.amax(inside_of_one, keepdim=True)  # one of each weight
    # Beyond the extreme codes that occur no threshold counts: clamped to those codes, u has the largest distance, 1/2.
    inside = u.clamp(smallest.round(), largest.round())
    return threshold_distance(inside) > boundary_range


def stacks(layers: Iterable[WeightLayer], *, together: bool) -> list[list[WeightLayer]]:
    """Part layers into those whose weights are stacked: ``together``, all that are alike, else each alone."""
    alike: dict[object, list[WeightLayer]] = {}
    for layer in layers:
        quantizer = weight_quantizer(layer)
        kind = layer.weight.shape, type(quantizer), quantizer.extra_repr()
        alike.setdefault(kind if together else layer, []).append(layer)
    return list(alike.values())


def _positions(layers: list[WeightLayer], weights: Tensor) -> Tensor:
    """Return the unrounded codes of stacked weights (layers, *shape), in their shape."""
    first, wide_weights = weight_quantizer(layers[0]), wide(weights)
    ones = (1,) * (weights.ndim - 2)
    if first.rowwise:
        step = first.step(wide_weights.flatten(0, 1)).view(len(layers), -1, *ones)  # (layers, rows, 1, ...)
    else:
        steps = (weight_quantizer(layer).spread_step(w) for layer, w in zip(layers, wide_weights, strict=True))
        # A single step (1,) to (1, 1, ...); then (layers, rows or 1, ...).
        step = torch.stack([each.view(1, *ones) if each.numel() == 1 else each for each in steps])
    return first.placed(wide_weights, step)
