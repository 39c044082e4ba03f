"""The linear layer that quantizes its weight and its input."""

from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofq.quant.kernels.choose import fused
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.lsq import LSQQuantizer

Layer = TypeVar("Layer", bound=nn.Module)


class QuantLinear(nn.Linear):
    """Linear layer with a quantized weight and input, each quantizer optional.

        y = Q_x(x) Q_w(W)^T + b

    Args:
        in_features: as in :class:`torch.nn.Linear`.
        out_features: as in :class:`torch.nn.Linear`.
        bias: as in :class:`torch.nn.Linear`.
        weight_quantizer: of the weight (out_features, in_features), or None for full precision.
        input_quantizer: of the input (..., in_features), or None for full precision.

    Source: tests/golden/README.md section 4. Unlike in the released code, a layer without bias stays without one.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        weight_quantizer: Quantizer | None = None,
        input_quantizer: LSQQuantizer | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.weight_quantizer = weight_quantizer
        self.input_quantizer = input_quantizer

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, *, weight_quantizer: Quantizer | None, input_quantizer: LSQQuantizer | None
    ) -> Self:
        """Make a quantized layer that takes over the weight and bias parameters themselves, not copies."""
        with torch.device("meta"):  # draws no random numbers
            layer = cls(linear.in_features, linear.out_features, bias=linear.bias is not None)
        layer.weight_quantizer, layer.input_quantizer = weight_quantizer, input_quantizer
        return take_over(layer, linear)

    def latent_weight(self) -> Tensor:
        """Return what the weight quantizer rounds, (out_features, in_features)."""
        return self.weight

    def quantized_weight(self) -> Tensor:
        """Return Q_w(W), shape (out_features, in_features)."""
        return self.weight if self.weight_quantizer is None else self.weight_quantizer(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features)."""
        quantizer = self.input_quantizer
        if quantizer is None:
            return F.linear(x, self.quantized_weight(), self.bias)
        if quantizer.axis in (-2, None) and (fast := fused(x, quantizer, weight=self.weight_quantizer)):
            return fast.linear(x, quantizer, fast.weight(self.weight, self.weight_quantizer, quantizer), self.bias)
        return F.linear(quantizer(x), self.quantized_weight(), self.bias)


def take_over(layer: Layer, source: Any) -> Layer:
    """Give a layer the source's parameters and mode, move its quantizers to where these are, and return it."""
    for quantizer in layer.children():
        quantizer.to(source.weight)
    layer.weight, layer.bias = source.weight, source.bias
    return layer.train(source.training)


def check_plain(name: str, layer: nn.Module, kind: type[nn.Module]) -> None:
    """Raise ValueError unless a layer computes as its kind does, with a weight of its own that can be taken over."""
    if not (isinstance(layer, kind) and type(layer).forward is kind.forward and isinstance(layer.weight, nn.Parameter)):
        found = "one whose weight is computed" if type(layer).forward is kind.forward else type(layer).__name__
        raise ValueError(f"{name} is {found}, and only a plain {kind.__name__} can be quantized there")
