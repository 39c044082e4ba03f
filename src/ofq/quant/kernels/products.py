"""Matrix products of fake-quantized factors, with the rounding of the input inside them.

The backward pass needs the rounded input and the place of each value on its grid. The second is kept, one tensor of the
input's size, and the first is made from it again.

Where the processor multiplies 8-bit integers fast, the forward product is one of the integer codes. It is exact, so it
has a smaller rounding error than the product in floating point, whose place it takes.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.lsq import LSQQuantizer
from ofq.quant.rounding import QuantGrid

INTEGER_BITS = 6
"""Wider factors are not multiplied as integers: an unsigned code, or twice a signed one plus one, fits into eight."""


class Weight(NamedTuple):
    """A fake-quantized weight.

    Attributes:
        values: (out, in).
        integers: int8 of the same shape, or None where a product of integers would be no faster.
        step: values = step*integers, (out, 1) or a single one; None without integers.
    """

    values: Tensor
    integers: Tensor | None = None
    step: Tensor | None = None


def quantized(weight: Tensor, quantizer: Quantizer | None, *, beside: Quantizer) -> Weight:
    """A matrix through its quantizer, if any.

    Args:
        weight: (out, in).
        quantizer: its quantizer.
        beside: quantizer of the other factor of the product.
    """
    if quantizer is None:
        return Weight(weight)
    rounded = quantizer.rounded(weight)
    by_row = rounded.step.numel() in (1, len(weight))
    if not by_row or not integers_pay(rounded.codes) or max(quantizer.bits, beside.bits) > INTEGER_BITS:
        return Weight(rounded.values)
    step = rounded.step.detach()
    if rounded.offset:  # half steps, so that the offset is a whole one
        return Weight(rounded.values, (2 * rounded.codes + 2 * rounded.offset).to(torch.int8), step / 2)
    return Weight(rounded.values, rounded.codes.to(torch.int8), step)


def integers_pay(x: Tensor) -> bool:
    """Whether products of int8 matrices on the tensor's device are faster than of its dtype."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and _multiplies_integers()


def rounded_product(codes: Tensor, step: Tensor, after: Tensor | None, weight: Weight, bias: Tensor | None) -> Tensor:
    """(codes*step + after) W^T + bias, with W*after added to the bias instead of ``after`` to the input.

    Args:
        codes: (..., in), int8 where the weight has integers.
        step: one a row, or a single one.
        after: (in,).
        weight: (out, in).
        bias: (out,).
    """
    if after is not None:
        bias = torch.mv(weight.values, after) if bias is None else torch.addmv(bias, weight.values, after)
    if weight.integers is None or weight.step is None:
        return F.linear(codes * step, weight.values, bias)
    # Exact: sums of products of such small integers stay far below 2^24.
    dots = torch._int_mm(codes.to(torch.int8).flatten(0, -2), weight.integers.t())
    steps = weight.step.expand(len(weight.values), 1).flatten()
    out = dots.view(torch.float32).copy_(dots).unflatten(0, codes.shape[:-1]).mul_(step)  # where the integers stood
    return out.mul_(steps) if bias is None else torch.addcmul(bias, out, steps, out=out)


def fuses(x: Tensor, *quantizers: Quantizer | None) -> bool:
    """Whether a fused function can take the place of the quantizers and the product."""
    if torch.is_autocast_enabled(x.device.type) or torch.compiler.is_compiling():
        return False  # the parts are cast or traced one by one
    return all(isinstance(quantizer, LSQQuantizer) and quantizer.fusible for quantizer in quantizers)


def quantized_linear(x: Tensor, quantizer: LSQQuantizer, weight: Weight, bias: Tensor | None) -> Tensor:
    """(Q(x + before) + after) W^T + bias.

    The ``after`` bias never meets a tensor of the input's size: it adds W*after to the bias, and its gradient is the
    bias's times W.

    Args:
        x: (..., in).
        quantizer: of the input, one step a row or one for all.
        weight: (out, in).
        bias: (out,).

    Source: tests/golden/README.md section 4.
    """
    grid = quantizer.grid_for(x.shape)
    out: Tensor = _QuantizedLinear.apply(
        x, quantizer.scale, quantizer.before, quantizer.after, weight.values, bias, weight[1:], grid
    )
    return out


class _QuantizedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        before: Tensor | None,
        after: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        factors: tuple[Tensor | None, Tensor | None],
        grid: QuantGrid,
    ) -> Tensor:
        step = grid.step(scale)
        u, codes = grid.place_and_codes(x, step, before, integers=factors[0] is not None)
        ctx.save_for_backward(u, step, weight, after)
        ctx.grid, ctx.steps = grid, scale.numel()
        return rounded_product(codes, step, after, Weight(weight, *factors), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        u, step, weight, after = ctx.saved_tensors
        grid: QuantGrid = ctx.grid
        needs_x, _, needs_before, needs_after, needs_weight, needs_bias = ctx.needs_input_grad[:6]
        rows = g.flatten(0, -2)
        grad_weight = grad_after = None
        grad_bias = rows.sum(0)
        if needs_weight:
            grad_weight = rows.t() @ grid.values(u, step, None).flatten(0, -2)
            if after is not None:
                grad_weight.addr_(grad_bias, after)
        if needs_after:
            grad_after = weight.t() @ grad_bias
        grad = (rows @ weight).view_as(u)
        grad_scale, grad_before = grid.gradients(grad, u, ctx.steps)
        return (
            grad if needs_x else None,
            grad_scale,
            grad_before if needs_before else None,
            grad_after,
            grad_weight,
            grad_bias if needs_bias else None,
            None,
            None,
        )


@cache
def _multiplies_integers() -> bool:
    """Whether this processor has instructions for dot products of int8."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older versions
    names = ("avx512_vnni", "avx_vnni", "amx_int8")
    return torch.backends.mkldnn.is_available() and any(capabilities.get(name) for name in names)
