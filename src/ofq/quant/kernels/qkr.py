"""Query-key reparameterization as one function of the autograd graph, with the layouts of the plain attention."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ofq.quant.kernels.attention import Context
from ofq.quant.kernels.grid import learned, place_and_codes, values
from ofq.quant.kernels.products import INTEGER_BITS, Weight, rounded_product
from ofq.quant.quantizers.lsq import Grid, LSQQuantizer


class Products(NamedTuple):
    """What the rounded input is multiplied by.

    Attributes:
        p: the stacked products P_h = W_q,h^T W_k,h of the heads (H*C, C).
        v: weight of the values (A, C).
        v_bias: (A,).
    """

    p: Weight
    v: Weight
    v_bias: Tensor | None


def qkr_attention(
    x: Tensor, quantizer: LSQQuantizer, products: Products, u_quantizer: LSQQuantizer, context: Context, scale: float
) -> Tensor:
    """Compute the context of query-key reparameterization.

        x' = Q(x),   u_h = Q(x' P_h^T),   p_h = Q_p(softmax(scale*x' u_h^T)),   context_h = p_h Q(x' W_v,h^T + b_v,h)

    Args:
        x: (B, N, C), not quantized.
        quantizer: of ``x``.
        products: P, W_v and b_v.
        u_quantizer: of u as (B, N, H, C).
        context: what comes after the scores.
        scale: of the scores, 1/sqrt(d).

    Returns:
        (B, N, A).

    Source: tests/golden/README.md section 5; OFQ paper section 3.
    """
    batch, tokens, channels = x.shape
    grids = quantizer.grid_for(x.shape), u_quantizer.grid_for(torch.Size((batch, tokens, context.heads, channels)))
    p, v, v_bias = products
    out: Tensor = _QKRAttention.apply(
        *((*grids, context, scale), (p, v), x, *learned(quantizer), p.values, *learned(u_quantizer)),
        *(v.values, v_bias, *context.learned()),
    )
    return out


class _QKRAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: tuple[Grid, Grid, Context, float], weights: tuple[Weight, Weight], x: Tensor, *tensors: Any
    ) -> Tensor:
        x_grid, u_grid, context, factor = plan
        x_scale, x_before, x_after, product, u_scale, u_before, u_after, v_weight, v_bias, *vectors = tensors
        x_step, u_step = x_grid.step(x_scale), u_grid.step(u_scale)
        integers = weights[0].integers is not None
        x_u, codes = place_and_codes(x_grid, x, x_step, x_before, integers=integers)
        # (B, N, H*C), (B, N, A)
        u, v = (rounded_product(codes, x_step, x_after, *pair) for pair in zip(weights, (None, v_bias), strict=True))
        # u (B, N, H, C)
        u_u, u_codes = place_and_codes(u_grid, u.unflatten(-1, (context.heads, -1)), u_step, u_before)
        if integers and u_after is None and u_grid.high < 2**INTEGER_BITS:
            scores = _integer_scores(codes, x_step, x_after, u_codes, u_step, factor)
        else:
            queries, keys = values(x_grid, x_u, x_step, x_after), values(u_grid, u_u, u_step, u_after)
            scores = x.new_empty(context.heads, *x.shape[:2], x.shape[1])
            for out, key in zip(scores, keys.unbind(2), strict=True):  # out (B, N, N), key (B, N, C)
                out.baddbmm_(queries, key.transpose(1, 2), beta=0, alpha=factor)  # (B, N, C) x (B, C, N) to (B, N, N)
        out, saved = context.forward(scores, v, *vectors)
        ctx.save_for_backward(x_u, x_step, x_after, u_u, u_step, u_after, product, v_weight, *saved)
        ctx.plan = plan
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x_u, x_step, x_after, u_u, u_step, u_after, product, v_weight, *saved = ctx.saved_tensors
        x_grid, u_grid, context, factor = ctx.plan
        grad_v = torch.empty_like(g)
        grad_scores, grad_vectors = context.backward(g, tuple(saved), grad_v)

        x, keys = values(x_grid, x_u, x_step, x_after), values(u_grid, u_u, u_step, u_after)
        grad_u, grad_x = torch.empty_like(keys), torch.empty_like(x)
        grad_scores.mul_(factor)
        # grad (B, N, N), queries by keys; key, out (B, N, C)
        for h, (grad, key, out) in enumerate(zip(grad_scores, keys.unbind(2), grad_u.unbind(2), strict=True)):
            out.copy_(torch.bmm(grad.transpose(1, 2), x))  # grad^T (B, N, N), keys by queries
            grad_x.baddbmm_(grad, key, beta=min(h, 1))
        del keys, grad_scores
        grad_u_after = None if u_after is None else u_grid.move_gradient(grad_u)
        grad_u_scale, grad_u_before = u_grid.gradients(grad_u, u_u)

        # (B*N, C), (B*N, A), (B*N, H*C)
        rows, v_rows, u_rows = x.flatten(0, 1), grad_v.flatten(0, 1), grad_u.flatten(2).flatten(0, 1)
        grad_x.flatten(0, 1).addmm_(u_rows, product).addmm_(v_rows, v_weight)  # (B*N, C), a view
        grad_product, grad_v_weight = u_rows.t() @ rows, v_rows.t() @ rows  # (H*C, C), (A, C)
        grad_v_bias = v_rows.sum(0) if ctx.needs_input_grad[11] else None
        grad_x_after = None if x_after is None else x_grid.move_gradient(grad_x)
        grad_x_scale, grad_x_before = x_grid.gradients(grad_x, x_u)
        return (
            *(None, None, grad_x, grad_x_scale, grad_x_before, grad_x_after),
            *(grad_product, grad_u_scale, grad_u_before, grad_u_after, grad_v_weight, grad_v_bias, *grad_vectors),
        )


def _integer_scores(
    x: Tensor, x_step: Tensor, x_after: Tensor | None, u: Tensor, u_step: Tensor, factor: float
) -> Tensor:
    """Compute the scores (x*x_step + x_after) (u*u_step)^T * factor, (H, B, N, N), from codes.

    Args:
        x: int8 codes (B, N, C).
        x_step: (N, 1) or (1,).
        x_after: (C,).
        u: codes in floating point (B, N, H, C).
        u_step: (N, H, 1).
        factor: of the scores, 1/sqrt(d).
    """
    batch, tokens, heads, channels = u.shape
    keys = torch.empty(batch, heads, tokens, channels, dtype=torch.int8, device=u.device)
    keys.copy_(u.transpose(1, 2))  # (B, H, N, C)
    dots = torch.empty(batch, tokens, heads * tokens, dtype=torch.int32, device=u.device)
    for query, key, out in zip(x, keys.flatten(1, 2), dots, strict=True):  # (N, C), (H*N, C), (N, H*N)
        torch._int_mm(query, key.t(), out=out)  # key^T (C, H*N)
    steps = u_step.view(tokens, heads).t() * factor  # (H, N)
    scores = torch.empty(heads, batch, tokens, tokens, dtype=u.dtype, device=u.device)
    by_head = dots.unflatten(-1, (heads, tokens)).permute(2, 0, 1, 3)  # (B, N, H, N) to (H, B, N, N)
    torch.mul(by_head, x_step * steps.view(heads, 1, 1, tokens), out=scores)  # x_step*steps (H, 1, N, N)
    if x_after is not None:
        # (B, N, H) to (H, B, N), times (H, 1, N); then (H, B, 1, N): the same for all queries
        scores.add_(((u @ x_after).permute(2, 0, 1) * steps.unsqueeze(1)).unsqueeze(2))
    return scores
