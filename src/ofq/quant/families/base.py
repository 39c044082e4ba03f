"""What a family of models says of its members, and what families share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ofq.config.quant_config import OF_QUANTIZERS, QuantConfig
from ofq.errors import UserError
from ofq.quant.modules.conv import QuantConv2d
from ofq.quant.modules.linear import QuantLinear
from ofq.quant.modules.qkr import QKRAttention
from ofq.quant.quantizers.base import Quantizer

Replacements = dict[tuple[nn.Module, str], nn.Module]
"""What takes the place of a module's child, by the module and the child's name."""

WeightLayer = QuantLinear | QuantConv2d
"""Layers whose quantized weight is a parameter of theirs."""
_ROUNDED = (QuantLinear, QuantConv2d, Quantizer)
_PRODUCT = ("q", "k")  # of which only the product is quantized


@dataclass(frozen=True)
class BlockWeight:
    """One low-bit weight of a block, a matrix or a convolution's, or one third of a joint matrix.

    Attributes:
        name: such as ``blocks.0.attn.q``.
        group: kind of layer, such as ``q`` or ``fc1``; each family has its own.
        block: number of the block, from 0.
        layer: the layer whose weight it is; under query-key reparameterization of the product, the attention.
        rows: which output rows, or output channels, of the layer's weight.
    """

    name: str
    group: str
    block: int
    layer: WeightLayer | QKRAttention
    rows: slice

    @property
    def quantizer(self) -> Quantizer:
        """The quantizer of the layer's weight."""
        quantizer = self.layer.weight_quantizer
        assert quantizer is not None
        return quantizer

    @property
    def bits(self) -> int:
        """Code width."""
        return self.quantizer.bits

    def latent(self) -> Tensor:
        """Return full-precision values, (rows, columns), of a convolution (O, I, h, w); no gradient.

        For ``qk`` they are the products W_q^T W_k (H*C, C).
        """
        return self._whole()[self.rows]

    def codes(self) -> Tensor:
        """Return the integer codes of the weight as it is now, in the shape of :meth:`latent`."""
        return self.quantizer.codes(self._whole())[self.rows]

    def last_codes(self) -> Tensor:
        """Return the integer codes that the last forward pass used, at no further cost.

        Raises:
            RuntimeError: nothing is recorded.
        """
        if self.quantizer.last_codes is None:
            raise RuntimeError(f"{self.name} has no recorded codes: call record_codes(model), then run a forward pass")
        return self.quantizer.last_codes[self.rows]

    def position(self) -> Tensor:
        """Return the unrounded, clamped code coordinate of the weight now; thresholds lie at half-integers."""
        return self.quantizer.position(self._whole())[self.rows]

    @torch.no_grad()
    def step_widths(self) -> Tensor:
        """Return step/sd of each weight, sd that of its row or output channel, in the shape of :meth:`latent`.

        Not finite in rows whose weights are all equal.
        """
        whole = self._whole()
        inside = list(range(1, whole.ndim))
        # (rows, columns) and (rows, 1)
        step, sd = self.quantizer.spread_step(whole).expand_as(whole), whole.std(inside, correction=0, keepdim=True)
        return (step / sd)[self.rows]

    def step_width(self) -> float:
        """Return the mean of :meth:`step_widths` over the weights where it is finite, else not a number."""
        widths = self.step_widths()
        return widths[widths.isfinite()].mean().item()

    @torch.no_grad()
    def _whole(self) -> Tensor:
        return self.layer.latent_weight().detach()


class Family(ABC):
    """A kind of models that are quantized by type; it keeps no state.

    A member is registered with ``models``, patterns of the names in timm that a study's model may have. The most
    specific pattern that fits decides which family's code a run depends on.

    Attributes:
        supported: the models, for errors.
    """

    supported: str

    @abstractmethod
    def fits(self, model: nn.Module) -> bool:
        """Return whether a model, quantized or not, has the layers of this family."""

    @abstractmethod
    def check(self, model: nn.Module) -> None:
        """Raise ValueError for what cannot be converted, before anything is changed."""

    @abstractmethod
    def convert(self, model: nn.Module, config: QuantConfig) -> Replacements:
        """Make the quantized layers that take the place of a checked model's, which stays as it is."""

    @abstractmethod
    def low_bit_weights(self, model: nn.Module) -> list[BlockWeight]:
        """List every low-bit weight of the blocks of a quantized model, in the order in which the blocks use them."""


def full_precision_layers(model: nn.Module, instead: Replacements | None = None) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers whose weights are multiplied in full precision, with their names.

    Vectors, norms and embeddings do not count, nor W_q and W_k, whose product is quantized.

    Args:
        model: quantized, or in full precision.
        instead: what is to take the place of some of its layers.
    """
    waiting = [("", model)]
    while waiting:
        name, module = waiting.pop()
        # Most modules have neither, and every forward pass comes by.
        if not (module._parameters or module._modules) or isinstance(module, _ROUNDED):
            continue
        if _multiplies(module):
            yield name[1:] or type(module).__name__, module
        left = _PRODUCT if isinstance(module, QKRAttention) else ()
        children = [(f"{name}.{part}", child, part) for part, child in module._modules.items() if child is not None]
        waiting += [
            (path, instead.get((module, part), child) if instead else child)
            for path, child, part in reversed(children)
            if part not in left
        ]


def _multiplies(module: nn.Module) -> bool:
    if isinstance(module, nn.Embedding | nn.LayerNorm | nn.RMSNorm):
        return False
    weights = (weight for name, weight in module._parameters.items() if "weight" in name and weight is not None)
    return isinstance(module, nn.Linear) or any(weight.ndim > 1 for weight in weights)


def weight_quantizer(config: QuantConfig, bits: int | None = None) -> Quantizer:
    """Make a weight quantizer of the blocks: the class that the name stands for, with those switches that it takes.

    Args:
        config: what to quantize to.
        bits: in place of the blocks'.

    Raises:
        UserError: a class of the user's cannot be imported, is no quantizer, or cannot be made.
    """
    entry = config.entry
    switches: dict[str, Any] = {name: getattr(config, name) for name in OF_QUANTIZERS if name in entry.arguments}
    if config.weight_axis == "tensor":
        switches["axis"] = None
    entry.load(Quantizer, "ofq.quant.Quantizer")
    try:
        quantizer: Quantizer = entry.make(bits or config.weight_bits, **switches)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"weight quantizer {entry.name}: {error}; mend {entry.attribute}(bits), or name another"
        ) from None
    return quantizer
