"""The convolution that quantizes its weight and its input."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from ofq.quant.modules.linear import check_plain, take_over
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.learned import LearnedStepQuantizer
from ofq.quant.quantizers.lsq import LSQQuantizer


class QuantConv2d(nn.Conv2d):
    """Convolution with a quantized weight and input, each quantizer optional; any groups, stride, padding, dilation.

        y = Q_x(x) * Q_w(W) + b

    Zeros of the padding are added behind the rounding of x.

    Args:
        in_channels: as in :class:`torch.nn.Conv2d`.
        out_channels: as in :class:`torch.nn.Conv2d`.
        kernel_size: as in :class:`torch.nn.Conv2d`.
        same: pad as TensorFlow's "same" does, by the size of the input, as timm's ``Conv2dSame``.
        weight_quantizer: of the weight (out_channels, in_channels/groups, height, width), or None. It has a step for
            each output channel (axis 0), or one for all (axis None).
        input_quantizer: of the input (B, in_channels, H, W), or None.
        others: as in :class:`torch.nn.Conv2d`.

    Raises:
        ValueError: the weight quantizer has steps along another axis.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        *,
        same: bool = False,
        weight_quantizer: Quantizer | None = None,
        input_quantizer: LSQQuantizer | None = None,
        **others: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **others)
        self.same = same
        self.weight_quantizer = weight_quantizer
        self.input_quantizer = input_quantizer
        check_steps(weight_quantizer, self.weight)

    @classmethod
    def from_conv(
        cls, conv: nn.Conv2d, *, weight_quantizer: Quantizer | None, input_quantizer: LSQQuantizer | None
    ) -> Self:
        """Make a quantized convolution that takes over the weight and bias parameters themselves, not copies.

        Raises:
            ValueError: the convolution is neither a plain one nor timm's ``Conv2dSame``, or as in the constructor.
        """
        from timm.layers import Conv2dSame  # here, because timm takes seconds to import

        same = type(conv).forward is Conv2dSame.forward
        check_plain("the layer", conv, Conv2dSame if same else nn.Conv2d)
        check_steps(weight_quantizer, conv.weight)
        height, width = conv.kernel_size
        options = {name: getattr(conv, name) for name in ("stride", "padding", "dilation", "groups", "padding_mode")}
        with torch.device("meta"):  # draws no random numbers
            bias = conv.bias is not None
            layer = cls(conv.in_channels, conv.out_channels, (height, width), same=same, bias=bias, **options)
        layer.weight_quantizer, layer.input_quantizer = weight_quantizer, input_quantizer
        return take_over(layer, conv)

    def latent_weight(self) -> Tensor:
        """Return what the weight quantizer rounds, (out_channels, in_channels/groups, height, width)."""
        return self.weight

    def quantized_weight(self) -> Tensor:
        """Return Q_w(W), in the weight's shape."""
        return self.weight if self.weight_quantizer is None else self.weight_quantizer(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map an image (B, in_channels, H, W) to (B, out_channels, H', W')."""
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        if self.same:
            x = nn.functional.pad(x, self._same_padding(x))
        return self._conv_forward(x, self.quantized_weight(), self.bias)

    def _same_padding(self, x: Tensor) -> list[int]:
        """Return how many zeros stand left and right, above and below; an odd one is right and below."""
        found = []
        for axis in (1, 0):
            stride, reach = self.stride[axis], (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            size = x.shape[2 + axis]
            missing = max((-(-size // stride) - 1) * stride + reach - size, 0)
            found += [missing // 2, missing - missing // 2]
        return found


def check_steps(quantizer: Quantizer | None, weight: Tensor) -> None:
    """Raise ValueError unless a quantizer has a step for each output channel of a convolution's weight, or one."""
    if quantizer is None:
        return
    if quantizer.axis not in (0, None):
        raise ValueError(
            "the weight of a convolution has a step for each output channel (axis 0) or one for all (axis None), not "
            f"along axis {quantizer.axis}"
        )
    if not isinstance(quantizer, LearnedStepQuantizer):  # those have no steps yet
        quantizer.spread_step(weight.detach())
