"""The low-bit weights of the blocks, for measuring oscillation and for annealing."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ofq.quant.modules.attention import QKRAttention, QuantAttention
from ofq.quant.modules.layers import QuantLinear
from ofq.quant.quantizers.base import Quantizer


@dataclass(frozen=True)
class BlockWeight:
    """One low-bit weight matrix of a block, or one third of a joint one.

    Attributes:
        name: such as ``blocks.0.attn.q``.
        group: ``q``, ``k``, ``qk``, ``v``, ``proj``, ``fc1`` or ``fc2``.
        block: number of the block, from 0.
        bits: code width.
        layer: the layer whose weight it is; for ``qk``, under query-key reparameterization, the attention.
        rows: which output rows of the layer's weight.
    """

    name: str
    group: str
    block: int
    bits: int
    layer: QuantLinear | QKRAttention
    rows: slice

    @property
    def quantizer(self) -> Quantizer:
        """The quantizer of the layer's weight."""
        quantizer = self.layer.weight_quantizer
        assert quantizer is not None
        return quantizer

    def latent(self) -> Tensor:
        """Return full-precision values (rows, columns), for ``qk`` the products W_q^T W_k (H*C, C); no gradient."""
        return self._whole()[self.rows]

    def codes(self) -> Tensor:
        """Return the integer codes of the weight as it is now, in the shape of :meth:`latent`."""
        return self.quantizer.codes(self._whole())[self.rows]

    def last_codes(self) -> Tensor:
        """Return the integer codes that the last forward pass used, at no further cost.

        Raises:
            RuntimeError: nothing was recorded.
        """
        if self.quantizer.last_codes is None:
            raise RuntimeError(f"{self.name} has no recorded codes: call record_codes(model), then run a forward pass")
        return self.quantizer.last_codes[self.rows]

    def position(self) -> Tensor:
        """Return the unrounded, clamped code coordinate of the weight now; thresholds lie at half-integers."""
        return self.quantizer.position(self._whole())[self.rows]

    def _whole(self) -> Tensor:
        with torch.no_grad():
            layer = self.layer
            return layer.query_key_product() if isinstance(layer, QKRAttention) else layer.weight.detach()


def block_weights(model: nn.Module) -> list[BlockWeight]:
    """List every low-bit weight of the blocks, in the order in which the blocks use them.

    A joint ``qkv`` gives three entries, its thirds. Query-key reparameterization gives the product as one entry,
    ``qk``. The first and the last layer of the model have more bits and are left out.

    Raises:
        ValueError: the model is not quantized.
    """
    from timm.layers import Mlp  # a quantized model is made of timm's modules

    found: list[BlockWeight] = []

    def add(prefix: str, group: str, layer: QuantLinear | QKRAttention, rows: slice) -> None:
        quantizer = layer.weight_quantizer
        if quantizer is not None:
            found.append(BlockWeight(f"{prefix}.{group}", group, block, quantizer.bits, layer, rows))

    everything = slice(None)
    block = -1
    for name, module in model.named_modules():
        if isinstance(module, QuantAttention):
            block += 1
            width = module.qkv.out_features // 3
            for part, group in enumerate("qkv"):
                add(name, group, module.qkv, slice(part * width, (part + 1) * width))
            add(name, "proj", module.proj, everything)
        elif isinstance(module, QKRAttention):
            block += 1
            add(name, "qk", module, everything)
            add(name, "v", module.v, everything)
            add(name, "proj", module.proj, everything)
        elif isinstance(module, Mlp) and isinstance(module.fc1, QuantLinear) and isinstance(module.fc2, QuantLinear):
            add(name, "fc1", module.fc1, everything)
            add(name, "fc2", module.fc2, everything)
    if not found:
        raise ValueError("the model has no quantized blocks; call quantize_model first")
    return found


def record_codes(model: nn.Module, *, on: bool = True) -> None:
    """Make the quantizers of the blocks' weights keep the codes of each forward pass, or no longer (``on=False``)."""
    for weight in block_weights(model):
        weight.quantizer.record = on
        if not on:
            weight.quantizer.last_codes = None
