"""Rounding one tensor, and what belongs to a product of codes."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._triton import has_triton

from ofq.quant.kernels.products import Weight
from ofq.quant.quantizers.base import Quantizer, wide
from ofq.quant.quantizers.lsq import Grid

_SMALL = 2**20  # elements below which a part is not worth compiling, such as the input of a head


class Side(NamedTuple):
    """What rounds one tensor; all broadcasts against it.

    Attributes:
        step: of the grid.
        before: added before, or None.
        after: added afterwards, or None.
        low: smallest code.
        high: largest code.
    """

    step: Tensor
    before: Tensor | None
    after: Tensor | None
    low: Any
    high: Any

    def place(self, x: Tensor) -> Tensor:
        """Return u = (x + before)/step, float32."""
        x = wide(x)
        return x / self.step if self.before is None else torch.addcdiv(self.before / self.step, x, self.step)

    def nearest(self, u: Tensor) -> Tensor:
        """Return round(clamp(u, low, high)), ties to even."""
        return torch.clamp(u, self.low, self.high).round()

    def codes(self, x: Tensor) -> Tensor:
        """Return the codes of x, float32."""
        return self.nearest(self.place(x))

    def values(self, x: Tensor) -> Tensor:
        """Return code*step + after, float32."""
        scaled = self.codes(x) * self.step
        return scaled if self.after is None else scaled + self.after

    def gradients(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return dL/dx, and dL/dstep and dL/dbefore in their shapes, from the gradient of the values, all float32."""
        u = self.place(x)
        inside = torch.where((u >= self.low) & (u <= self.high), g, 0.0)
        pull = summed(self.nearest(u) * g - u * inside, self.step.shape)
        return inside, pull, None if self.before is None else summed(inside, self.before.shape)


def side(grid: Grid, scale: Tensor, before: Tensor | None, after: Tensor | None) -> Side:
    """Return what rounds on a grid."""
    shape = grid.quantizer.shape
    return Side(
        grid.step(scale), None if before is None else before.view(shape), grid.shift(after), grid.low, grid.high
    )


def codes_of(x: Tensor, part: Side, dtype: torch.dtype) -> Tensor:
    """Return the codes of x in the dtype of a product."""
    return part.codes(x).to(dtype)


def mixed_weight(weight: Tensor, quantizer: Quantizer | None, _beside: Quantizer) -> Weight:
    """Quantize a weight matrix (out, in), if it has a quantizer: values, and integers where a row has one step."""
    if quantizer is None:
        return Weight(weight)
    rounded = quantizer.rounded(weight)
    if rounded.step.numel() not in (1, len(weight)):
        return Weight(rounded.values)
    step = rounded.step.detach()
    # In half steps, so that code + 1/2 becomes a whole number; at most 255, which bfloat16 holds.
    if rounded.offset:
        return Weight(rounded.values, 2 * rounded.codes + 2 * rounded.offset, step / 2)
    return Weight(rounded.values, rounded.codes, step)


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which autocast would multiply x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def factor(weight: Weight, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Return what is multiplied by, (out, in), and a row of steps for the product (out,), or None."""
    if weight.integers is None or weight.step is None:
        return weight.values.detach().to(dtype), None
    return weight.integers.detach().to(dtype), weight.step.expand(len(weight.values), 1).flatten()  # (out,)


def shifted(bias: Tensor | None, values: Tensor, after: Tensor | None) -> Tensor | None:
    """Return bias + W*after, float32 (out,): what an ``after`` of the input adds to the product."""
    if after is None:
        return bias
    product = (wide(values) * after).sum(-1)  # (out, in) to (out,)
    return product if bias is None else product + bias


def scaled(product: Tensor, step: Tensor, row: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return product*step*row + bias, float32, in the product's shape (..., out)."""
    out = wide(product) * step
    if row is not None:
        out = out * row
    return out if bias is None else out + bias


def summed(x: Tensor, shape: torch.Size) -> Tensor:
    """Sum x to a shape that broadcasts against it, over the last axes first."""
    ones = 0
    while ones < len(shape) and shape[-1 - ones] == 1:
        ones += 1
    return (x.sum(list(range(-ones, 0)), keepdim=True) if ones else x).sum_to_size(shape)  # shape


def flat(x: Tensor | None) -> Tensor | None:
    """Return x as a vector, if there is one."""
    return None if x is None else x.flatten()


def of_step(x: Tensor, grid: Grid) -> Tensor:
    """Return the gradient of a grid's vector of steps from dL/dstep, times gamma."""
    return (x * grid.gamma).flatten()


def runner(x: Tensor) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what the elementwise parts go through: in eager training on a card they are compiled, each by itself."""
    eager = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return _compiled if eager and x.device.type == "cuda" and x.numel() >= _SMALL and has_triton() else _plain


def _plain(part: Callable[..., Any]) -> Callable[..., Any]:
    return part


@cache
def _compiled(part: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(part, dynamic=False, options={"deterministic": True})  # else it chooses sums by their speed
