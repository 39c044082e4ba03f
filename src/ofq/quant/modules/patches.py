"""The convolution of patches of a vision transformer, as one matrix product."""

from typing import Any, Self

from torch import Tensor, nn
from torch.nn import functional as F

from ofq.quant.modules.conv import QuantConv2d
from ofq.quant.modules.linear import check_plain
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.lsq import LSQQuantizer


class QuantPatches(QuantConv2d):
    """:class:`QuantConv2d` of patches that do not overlap (kernel = stride, no padding), as one matrix product.

    The input quantizer's parameters need the backward pass to the image. On a CPU that of the product is much cheaper
    than that of the convolution; the forward pass costs the same.

    Raises:
        ValueError: the converted convolution is not one of patches, or the image is no multiple of the patch.

    Source: tests/golden/README.md section 4.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int], **others: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **{"stride": kernel_size} | others)

    @classmethod
    def from_conv(
        cls, conv: nn.Conv2d, *, weight_quantizer: Quantizer | None, input_quantizer: LSQQuantizer | None
    ) -> Self:
        """Make a quantized convolution that takes over the weight and bias parameters themselves, not copies."""
        check_patches("the layer", conv)
        return super().from_conv(conv, weight_quantizer=weight_quantizer, input_quantizer=input_quantizer)

    def forward(self, x: Tensor) -> Tensor:
        """Map an image (B, in_channels, H, W) to (B, out_channels, H/height, W/width)."""
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        height, width = self.kernel_size
        if x.shape[-2] % height or x.shape[-1] % width:
            raise ValueError(f"image {tuple(x.shape[-2:])} is no multiple of the patch {(height, width)}")
        x = x.unflatten(-1, (-1, width)).unflatten(-3, (-1, height))  # (B, K, H/h, h, W/w, w)
        patches = x.permute(0, 2, 4, 1, 3, 5).flatten(3)  # (B, H/h, W/w, K*h*w)
        y = F.linear(patches, self.quantized_weight().flatten(1), self.bias)  # weight (O, K*h*w), y (B, H/h, W/w, O)
        return y.permute(0, 3, 1, 2)  # (B, O, H/h, W/w); timm's PatchEmbed permutes back without copying


def check_patches(name: str, conv: Any) -> None:
    """Raise ValueError for a layer of a model that :class:`QuantPatches` cannot take the place of."""
    check_plain(name, conv, nn.Conv2d)
    plain = conv.padding in ((0, 0), "valid") and conv.dilation == (1, 1) and conv.groups == 1
    if conv.kernel_size != conv.stride or not plain:
        raise ValueError(
            "only a convolution of patches (stride = kernel_size, no padding, dilation or groups) can be quantized, "
            f"not {name}, {conv}"
        )
