"""Attention with query-key reparameterization, between its input and its output projection."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ofq.quant.kernels.attention import Context
from ofq.quant.kernels.grid import learned
from ofq.quant.kernels.mixed.attention import (
    Layout,
    Scores,
    context_of,
    dropout_mask,
    grids_of,
    layout,
    p_codes,
    p_gradients,
)
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
from ofq.quant.kernels.qkr import Products
from ofq.quant.quantizers.base import wide
from ofq.quant.quantizers.lsq import LSQQuantizer


def mixed_qkr(
    x: Tensor, quantizer: LSQQuantizer, products: Products, u_quantizer: LSQQuantizer, context: Context, scale: float
) -> Tensor:
    """Compute the context of query-key reparameterization, as ``qkr_attention`` does."""
    batch, tokens, channels = x.shape
    p, v, v_bias = products
    dtype = product_dtype(x)
    u_grid = u_quantizer.grid_for(torch.Size((batch, tokens, context.heads, channels)))
    grids = quantizer.grid_for(x.shape), u_grid, *grids_of(context, x.shape[:2], len(v.values))
    plan = grids, context.heads, scale, dtype, runner(x)
    out: Tensor = _QKR.apply(
        *(plan, dropout_mask(x, context), x, *factor(p, dtype), *factor(v, dtype), *learned(quantizer), p.values),
        *(*learned(u_quantizer), v.values, v_bias, *context.learned()),
    )
    return out


class _Uv(NamedTuple):
    """The products of the codes of x with two weights, and what makes u and the values of them.

    Attributes:
        u: (B, N, H*C).
        v: (B, N, A).
        step: of x, (N, 1).
        rows: steps of the weights' rows, (H*C,) and (A,), each or None.
        biases: what is added, (H*C,) and (A,), each or None.
    """

    u: Tensor
    v: Tensor
    step: Tensor
    rows: tuple[Tensor | None, Tensor | None]
    biases: tuple[Tensor | None, Tensor | None]

    def both(self, heads: int) -> tuple[Tensor, Tensor]:
        """Return u (B, N, H, C) and the values (B, N, A), float32."""
        u = scaled(self.u, self.step, self.rows[0], self.biases[0])
        return u.unflatten(-1, (heads, -1)), scaled(self.v, self.step, self.rows[1], self.biases[1])


def _uv_codes(uv: _Uv, sides: tuple[Side, Side, Side], shape: Layout) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the codes of u (B, H, K, C) and of the values (B, H, K, d), and what ``after`` of x adds (B, H, 1, N)."""
    u, v = uv.both(shape.heads)
    x_side, u_side, v_side = sides
    codes, shift = u_side.codes(u), None
    if x_side.after is not None:
        shift = (codes * x_side.after).sum(-1).transpose(1, 2).unsqueeze(2)
    return shape.keys(codes.flatten(2)), shape.keys(v_side.codes(v)), shift


def _uv_values(
    uv: _Uv, x: Tensor, g: Tensor, p_step: Tensor, sides: tuple[Side, Side, Side], shape: Layout
) -> tuple[Tensor, ...]:
    """Return rounded x (B, N, C), u (B, H, K, C) and values (B, H, K, d), and g*p_step (B, H, N, d)."""
    u, v = uv.both(shape.heads)
    x_side, u_side, v_side = sides
    keys = shape.keys(u_side.values(u).flatten(2)), shape.keys(v_side.values(v))
    return x_side.values(x).to(shape.dtype), *keys, shape.queries(wide(g) * p_step)


def _uv_gradients(
    grads: tuple[Tensor, Tensor], uv: _Uv, sides: tuple[Side, Side, Side], factor: float, shape: Layout
) -> tuple[Tensor | None, ...]:
    """Return gradients of u (B, N, H*C) and of the values (B, N, A), of V's bias, and of steps and biases."""
    u, v = uv.both(shape.heads)
    _, u_side, v_side = sides
    grad_u, grad_v = shape.rows(grads[0]) * factor, shape.rows(grads[1])
    grad_u, u_step, u_before = u_side.gradients(grad_u.unflatten(-1, (shape.heads, -1)), u)
    v_after = None if v_side.after is None else grad_v.flatten(0, 1).sum(0)
    grad_v, v_step, v_before = v_side.gradients(grad_v, v)
    narrow = grad_u.flatten(2).to(shape.dtype), grad_v.to(shape.dtype)
    return *narrow, grad_v.flatten(0, 1).sum(0), u_step, u_before, v_step, v_before, v_after


def _x_gradients(
    grads: tuple[Tensor, Tensor, Tensor], x: Tensor, part: Side, factor: float
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Return the gradients of x, its step and its biases, from those of x in the scores, in u and in the values."""
    scores, u, v = (wide(grad).view(x.shape) for grad in grads)
    g = scores * factor + u + v
    found, step, before = part.gradients(g, x)
    return found.to(x.dtype), step, before, g.flatten(0, -2).sum(0)


class _QKR(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Any, mask: Tensor | None, x: Tensor, *tensors: Any) -> Tensor:
        _, heads, _, dtype, run = plan
        shape = layout(x, heads, dtype)
        sides, scores = _QKR.sides(plan, tensors)
        codes = run(codes_of)(x, sides[0], shape.dtype)  # (B, N, C)
        u, v = (torch.matmul(codes, weight.t()) for weight in (tensors[0], tensors[2]))  # (B, N, H*C), (B, N, A)
        u_codes, v_codes, shift = run(_uv_codes)(_QKR.uv(u, v, sides[0], tensors), sides, shape)
        # One product for all heads: (B, N, H*K), seen as (B, H, N, K).
        products = torch.bmm(codes, u_codes.flatten(1, 2).transpose(1, 2)).unflatten(-1, (shape.heads, -1))
        products = products.transpose(1, 2)
        p, sums = run(p_codes)(products, scores.shifted(shift), mask, shape)
        ctx.save_for_backward(x, u, v, products, mask, shift, *tensors)
        ctx.plan = plan
        out: Tensor = run(context_of)(p @ v_codes, sums, scores.p_step, sides[2])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, u, v, products, mask, shift, *tensors = ctx.saved_tensors
        grids, heads, factor, dtype, run = ctx.plan
        p_values, u_after, w_values, w_bias = (tensors[i] for i in (7, 10, 11, 12))
        shape = layout(x, heads, dtype)
        sides, scores = _QKR.sides(ctx.plan, tensors)
        uv = _QKR.uv(u, v, sides[0], tensors)
        x_values, keys, values, grad = run(_uv_values)(uv, x, g, scores.p_step, sides, shape)
        p, grad_scores, p_step = run(p_gradients)(
            *(products, grad @ values.transpose(-1, -2), scores.shifted(shift), mask, shape)
        )
        by_query = grad_scores.transpose(1, 2).flatten(2)  # (B, N, H*K)
        grad_keys = torch.bmm(by_query.transpose(1, 2), x_values).unflatten(1, (heads, -1))  # (B, H, K, C)
        grad_queries = torch.bmm(by_query, keys.flatten(1, 2))  # (B, N, C)
        grad_u, grad_v, v_bias, u_step, u_before, v_step, v_before, v_after = run(_uv_gradients)(
            *((grad_keys, p.transpose(-1, -2) @ grad), uv, sides, factor, shape)
        )
        rows, u_rows, v_rows = x_values.flatten(0, 1), grad_u.flatten(0, 1), grad_v.flatten(0, 1)
        parts = grad_queries, u_rows @ p_values.to(dtype), v_rows @ w_values.to(dtype)
        grad_x, x_step, x_before, x_after = run(_x_gradients)(parts, x, sides[0], factor)
        return (
            *(None, None, grad_x, None, None, None, None),
            *(of_step(x_step, grids[0]), flat(x_before), None if sides[0].after is None else x_after),
            *((u_rows.t() @ rows).to(p_values.dtype), of_step(u_step, grids[1]), flat(u_before)),
            None if u_after is None else torch.zeros_like(u_after),  # softmax cancels it
            *((v_rows.t() @ rows).to(w_values.dtype), None if w_bias is None else v_bias),
            *(of_step(v_step, grids[2]), flat(v_before), v_after, of_step(p_step, grids[3])),
        )

    @staticmethod
    def sides(plan: Any, tensors: Any) -> tuple[tuple[Side, Side, Side], Scores]:
        """Return what rounds x, u and the values, and what makes scores."""
        (x_grid, u_grid, v_grid, p_grid), _, factor, *_ = plan
        # The ``after`` of u adds the same number to all scores of a query, which softmax cancels.
        x_side, u_side = side(x_grid, *tensors[4:7]), side(u_grid, tensors[8], tensors[9], None)
        v_scale, v_before, v_after, p_scale = tensors[13:]
        key = u_side.step.permute(1, 2, 0) * factor  # (N, H, 1) to (H, 1, N)
        scores = Scores(x_side.step, key, None, p_grid.step(p_scale), p_grid.high)
        return (x_side, u_side, side(v_grid, v_scale, v_before, v_after)), scores

    @staticmethod
    def uv(u: Tensor, v: Tensor, x: Side, tensors: Any) -> _Uv:
        """Return the products of the codes of x with what belongs to them."""
        _, p_row, _, w_row, *_ = tensors
        biases = shifted(None, tensors[7], x.after), shifted(tensors[12], tensors[11], x.after)
        return _Uv(u, v, x.step, (p_row, w_row), biases)
