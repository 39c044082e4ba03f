"""Matrix products of fake-quantized factors, with the rounding of the input inside them.

The backward pass needs the rounded input and the place of each value on its grid. Only the place is kept, one tensor of
the input's size; the rounded input is computed from it again.

Where the processor multiplies 8-bit integers fast, the forward pass multiplies the integer codes. That product is
exact, so its rounding error is smaller than that of the floating-point product it replaces.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ofq.quant.kernels.grid import learned, place_and_codes, values
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.lsq import Grid, LSQQuantizer

INTEGER_BITS = 6
"""Wider factors are not multiplied as integers: an unsigned code, or twice a signed one plus one, fits into eight."""


class Weight(NamedTuple):
    """A fake-quantized weight.

    Attributes:
        values: (out, in).
        integers: int8 of the same shape, or None where a product of integers would be no faster.
        step: values = step*integers, (out, 1) or (1,); None without integers.
    """

    values: Tensor
    integers: Tensor | None = None
    step: Tensor | None = None


def float_weight(weight: Tensor, quantizer: Quantizer | None, _beside: Quantizer) -> Weight:
    """Quantize a weight matrix (out, in), if it has a quantizer, for a product of floating-point numbers."""
    return Weight(weight if quantizer is None else quantizer(weight))


def integer_weight(weight: Tensor, quantizer: Quantizer | None, beside: Quantizer) -> Weight:
    """Quantize a weight matrix (out, in) for a product of integers, where both factors have a step a row and few bits.

    Args:
        weight: (out, in).
        quantizer: of the weight, or None for full precision.
        beside: quantizer of the other factor of the product.
    """
    if quantizer is None:
        return Weight(weight)
    rounded = quantizer.rounded(weight)
    if rounded.step.numel() not in (1, len(weight)) or max(quantizer.bits, beside.bits) > INTEGER_BITS:
        return Weight(rounded.values)
    step = rounded.step.detach()
    if rounded.offset:  # in half steps, so that code + 1/2 becomes a whole number
        return Weight(rounded.values, (2 * rounded.codes + 2 * rounded.offset).to(torch.int8), step / 2)
    return Weight(rounded.values, rounded.codes.to(torch.int8), step)


def rounded_product(codes: Tensor, step: Tensor, after: Tensor | None, weight: Weight, bias: Tensor | None) -> Tensor:
    """Compute (codes*step + after) W^T + bias, adding W*after to the bias instead of ``after`` to the input.

    Args:
        codes: (..., in), int8 where the weight has integers.
        step: (N, 1), one per token, or (1,).
        after: (in,).
        weight: (out, in).
        bias: (out,).

    Returns:
        (..., out).
    """
    if after is not None:
        bias = torch.mv(weight.values, after) if bias is None else torch.addmv(bias, weight.values, after)
    if weight.integers is None or weight.step is None:
        return F.linear(codes * step, weight.values, bias)
    # Exact: sums of products of such small integers stay far below 2^24.
    # (rows, in) x (in, out) to (rows, out)
    dots = torch._int_mm(codes.to(torch.int8).flatten(0, -2), weight.integers.t())
    steps = weight.step.expand(len(weight.values), 1).flatten()  # (out, 1) to (out,)
    # In the memory of the integers. (rows, out) to (..., out)
    out = dots.view(torch.float32).copy_(dots).unflatten(0, codes.shape[:-1]).mul_(step)
    return out.mul_(steps) if bias is None else torch.addcmul(bias, out, steps, out=out)


def quantized_linear(x: Tensor, quantizer: LSQQuantizer, weight: Weight, bias: Tensor | None) -> Tensor:
    """Compute (Q(x + before) + after) W^T + bias.

    No tensor of the input's size is made for the ``after`` bias: it adds W*after to the bias, and its gradient is the
    gradient of the bias times W.

    Args:
        x: (..., in).
        quantizer: of the input, one step per token or one for all.
        weight: (out, in).
        bias: (out,).

    Returns:
        (..., out).

    Source: tests/golden/README.md section 4.
    """
    plan = quantizer.grid_for(x.shape), weight
    out: Tensor = _QuantizedLinear.apply(plan, x, *learned(quantizer), weight.values, bias)
    return out


class _QuantizedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: tuple[Grid, Weight], x: Tensor, *tensors: Any) -> Tensor:
        grid, factor = plan
        scale, before, after, weight, bias = tensors
        step = grid.step(scale)
        u, codes = place_and_codes(grid, x, step, before, integers=factor.integers is not None)
        ctx.save_for_backward(u, step, weight, after)
        ctx.grid = grid
        return rounded_product(codes, step, after, factor, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        u, step, weight, after = ctx.saved_tensors
        grid: Grid = ctx.grid
        _, needs_x, _, needs_before, needs_after, needs_weight, needs_bias = ctx.needs_input_grad
        rows = g.flatten(0, -2)  # (rows, out)
        grad_weight = grad_after = None
        grad_bias = rows.sum(0)
        if needs_weight:
            rounded = values(grid, u, step, None).flatten(0, -2)  # (rows, in)
            grad_weight = rows.t() @ rounded  # (out, rows) x (rows, in) to (out, in)
            if after is not None:
                grad_weight.addr_(grad_bias, after)
        if needs_after:
            grad_after = weight.t() @ grad_bias  # (in, out) x (out,) to (in,)
        grad = (rows @ weight).view_as(u)  # (rows, in) to (..., in)
        grad_scale, grad_before = grid.gradients(grad, u)
        return (
            None,
            grad if needs_x else None,
            *(grad_scale, grad_before if needs_before else None, grad_after),
            *(grad_weight, grad_bias if needs_bias else None),
        )
