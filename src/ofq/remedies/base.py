"""The base of the remedies against oscillation, and what they share."""

import math

from torch import nn

from ofq.quant.families.base import WeightLayer
from ofq.quant.hook import Hook
from ofq.quant.modules.qkr import QKRAttention
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.weights import block_weights


class Remedy(Hook):
    """Base class of the remedies, which act around each optimizer step; this one does nothing.

    A remedy named in ``params.yaml`` is made as ``Class(model, steps, **arguments)``, with a quantized and calibrated
    model and the number of optimizer steps of its training. A ``ValueError`` of its constructor becomes the user's
    message.
    """


def governed_layers(model: nn.Module) -> dict[str, WeightLayer]:
    """Return the low-bit layers of the blocks by name, in the order of their use.

    Of a vision transformer these are ``qkv``, ``proj``, ``fc1`` and ``fc2``, of a CNN its convolutions but the stem.
    Under query-key reparameterization ``v`` takes the place of ``qkv``: the product of the query and key weights is
    quantized there, and no latent weight of its own could hold the product's codes.

    Raises:
        ValueError: the model is not quantized.
    """
    names = {id(module): name for name, module in model.named_modules()}
    layers = [weight.layer for weight in block_weights(model)]  # the thirds of qkv share one
    return {names[id(layer)]: layer for layer in layers if not isinstance(layer, QKRAttention)}


def weight_quantizer(layer: WeightLayer) -> Quantizer:
    """Return the quantizer of a governed layer's weight."""
    assert layer.weight_quantizer is not None
    return layer.weight_quantizer


def check_schedule(steps: int, start: float) -> None:
    """Raise ValueError unless :func:`annealed` takes these: steps whole and above 0, a start from 0 on and below 1."""
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number above 0, not {steps!r}")
    if not 0 <= start < 1:
        raise ValueError(f"start must be at least 0 and below 1, not {start}")


def annealed(step: int, steps: int, *, start: float, first: float, last: float) -> float:
    """Return the value at a step of a schedule that is constant first and then follows half a cosine.

    With T = steps and t0 = start*T:

        f(t) = first  for t < t0,   else  last + (first - last)*(1 + cos(pi*(t - t0)/(T - t0)))/2

    Args:
        step: t, the first step being 1.
        steps: T.
        start: share of the steps before the cosine begins, below 1.
        first: value until then.
        last: value at step T.

    Source: tests/golden/README.md section 11; Nagel et al. 2022.
    """
    begin = start * steps
    if step < begin:
        return first
    return last + (first - last) * (1 + math.cos(math.pi * (step - begin) / (steps - begin))) / 2
