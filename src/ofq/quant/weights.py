"""The low-bit weights of the blocks, for measuring oscillation and for remedies."""

import torch
from torch import nn

from ofq.quant.convert import families
from ofq.quant.families.base import BlockWeight
from ofq.quant.hook import Hook


def block_weights(model: nn.Module) -> list[BlockWeight]:
    """List every low-bit weight of the blocks, in the order in which the blocks use them.

    A joint ``qkv`` gives three entries, its thirds. Query-key reparameterization gives the product as one entry,
    ``qk``. The first and the last layer of the model have more bits and are left out.

    Raises:
        ValueError: the model is not quantized.
    """
    found = [weight for family in families() if family.fits(model) for weight in family.low_bit_weights(model)]
    if not found:
        raise ValueError("the model has no quantized blocks; call quantize_model first")
    return found


@torch.no_grad()
def record_codes(model: nn.Module, *, on: bool = True) -> None:
    """Make the quantizers of the blocks' weights keep the codes of each forward pass, or no longer (``on=False``)."""
    for weight in block_weights(model):
        weight.quantizer.recorded(weight.layer.latent_weight() if on else None)


def attach(hook: Hook, model: nn.Module) -> None:
    """Let a hook that overrides ``round_with`` or ``scale_gradient`` act in the weight quantizers of the blocks."""
    kind = type(hook)
    if kind.round_with is not Hook.round_with or kind.scale_gradient is not Hook.scale_gradient:
        for weight in block_weights(model):
            weight.quantizer.hook = hook
