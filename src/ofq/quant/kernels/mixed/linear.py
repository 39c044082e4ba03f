"""The linear layer."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ofq.quant.kernels.grid import learned
from ofq.quant.kernels.mixed.parts import (
    Side,
    codes_of,
    factor,
    flat,
    of_step,
    product_dtype,
    runner,
    scaled,
    shifted,
    side,
)
from ofq.quant.kernels.products import Weight
from ofq.quant.quantizers.base import in_dtype, wide
from ofq.quant.quantizers.lsq import Grid, LSQQuantizer


def mixed_linear(x: Tensor, quantizer: LSQQuantizer, weight: Weight, bias: Tensor | None) -> Tensor:
    """Compute (Q(x + before) + after) W^T + bias, as :func:`ofq.quant.kernels.products.quantized_linear` does."""
    dtype = product_dtype(x)
    plan = quantizer.grid_for(x.shape), dtype, runner(x)
    out: Tensor = _Linear.apply(plan, *factor(weight, dtype), x, *learned(quantizer), weight.values, bias)
    return out


def _linear_out(
    product: Tensor, step: Tensor, row: Tensor | None, bias: Tensor | None, values: Tensor, after: Tensor | None
) -> Tensor:
    return in_dtype(scaled(product, step, row, shifted(bias, values, after)), product.dtype)


def _linear_scaled(g: Tensor, x: Tensor, part: Side, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    g = wide(g)
    return (g * part.step).to(dtype), g.flatten(0, -2).sum(0), part.codes(x).to(dtype)


def _linear_input(grad: Tensor, x: Tensor, part: Side) -> tuple[Tensor, Tensor, Tensor | None]:
    grad_x, grad_step, grad_before = part.gradients(wide(grad) / part.step, x)
    return grad_x.to(x.dtype), grad_step, grad_before


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: tuple[Grid, torch.dtype, Any], integers: Tensor, row: Tensor | None, x: Tensor, *tensors: Any
    ) -> Tensor:
        grid, dtype, run = plan
        scale, before, after, values, bias = tensors
        part = side(grid, scale, before, after)
        codes = run(codes_of)(x, part, dtype)
        product = (codes.flatten(0, -2) @ integers.t()).unflatten(0, x.shape[:-1])  # (..., out)
        ctx.save_for_backward(x, scale, before, after, values)
        ctx.plan = plan
        out: Tensor = run(_linear_out)(product, part.step, row, bias, values, part.after)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, before, after, values = ctx.saved_tensors
        grid, dtype, run = ctx.plan
        needs_values, needs_bias = ctx.needs_input_grad[7:]
        part = side(grid, scale, before, after)
        # The gradient times the step of its token: so the codes need none, and the gradient of x is divided by it.
        grad, grad_bias, codes = run(_linear_scaled)(g, x, part, dtype)
        rows = grad.flatten(0, -2)  # (rows, out)
        grad_x, grad_step, grad_before = run(_linear_input)(
            (rows @ values.to(dtype)).view(x.shape), x, part
        )  # (rows, in) to (..., in)
        grad_values = grad_after = None
        if needs_values:
            grad_values = wide(rows.t() @ codes.flatten(0, -2))  # (out, in)
            if after is not None:
                grad_values = grad_values + grad_bias.unsqueeze(1) * after  # (out, 1) times (in,)
        if after is not None:
            grad_after = (wide(values) * grad_bias.unsqueeze(1)).sum(0)  # (out, in) to (in,)
        return (
            *(None, None, None, grad_x, of_step(grad_step, grid), flat(grad_before), grad_after),
            *(None if grad_values is None else grad_values.to(values.dtype), grad_bias if needs_bias else None),
        )
