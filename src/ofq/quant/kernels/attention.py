"""Quantized attention as one function of the autograd graph: what lies between two linear layers, fused.

Queries, keys and values have the layout (B, N, A), scores and probabilities (H, B, N, N). So the product of a head
reads views, and no tensor is copied to bring the heads to the front. The backward pass computes rounded values again:
of a rounded tensor only its place on the grid is kept, of the probabilities only the softmax.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ofq.quant.kernels.grid import learned, place_and_codes, rounded, values
from ofq.quant.quantizers.lsq import Grid, LSQQuantizer


def plain_attention(qkv: Tensor, qk: LSQQuantizer, context: "Context", scale: float) -> Tensor:
    """Compute the context of quantized queries, keys, values and probabilities.

        p = Q_p(softmax(scale*Q(q) Q(k)^T)),   context = p Q(v)

    Args:
        qkv: queries, keys and values side by side (B, N, 3A).
        qk: quantizer of queries and keys as (B, N, 2, A).
        context: what comes after the scores.
        scale: of the scores, 1/sqrt(d).

    Returns:
        (B, N, A).

    Source: tests/golden/README.md section 5.
    """
    batch, tokens, width = qkv.shape
    plan = qk.grid_for(torch.Size((batch, tokens, 2, width // 3))), context, scale
    out: Tensor = _PlainAttention.apply(plan, qkv, *learned(qk), *context.learned())
    return out


@dataclass(frozen=True)
class Context:
    """Softmax, quantized probabilities and quantized values, forward and backward.

    Attributes:
        heads: number of heads H.
        v: quantizer of the values (B, N, A).
        p: quantizer of the probabilities, one step per query.
        dropout: rate for the quantized probabilities; 0 in evaluation.
    """

    heads: int
    v: LSQQuantizer
    p: LSQQuantizer
    dropout: float

    def learned(self) -> tuple[Tensor | None, ...]:
        """Return the vectors that learn: ``scale``, ``before`` and ``after`` of the values, and ``p_scale``."""
        return *learned(self.v), self.p.scale

    def forward(self, scores: Tensor, v: Tensor, *vectors: Any) -> tuple[Tensor, tuple[Any, ...]]:
        """Map scores (H, B, N, N) and values (B, N, A) to the context (B, N, A), and to what :meth:`backward` needs.

        The vectors are those of :meth:`learned`. The scores are overwritten.
        """
        v_scale, v_before, v_after, p_scale = vectors
        v_grid, p_grid = self.v.grid_for(v.shape), self.p.grid_for(scores.shape)
        v_step, p_step = v_grid.step(v_scale), p_grid.step(p_scale)
        # In place, here and in the backward pass: holes of the size of these largest tensors would stay in the heap.
        probabilities = torch.softmax(scores, -1, out=scores)
        mask = None
        quantized = rounded(p_grid, probabilities, p_step)
        if self.dropout:
            mask = torch.empty_like(quantized).bernoulli_(1 - self.dropout).div_(1 - self.dropout)
            quantized.mul_(mask)
        v_u = v_grid.place(v, v_step, v_before)
        v_rounded = values(v_grid, v_u, v_step, v_after)
        context = torch.empty_like(v_rounded)
        # out, part (B, N, d); p (B, N, N)
        for out, p, part in zip(self.split(context), quantized, self.split(v_rounded), strict=True):
            out.copy_(torch.bmm(p, part))  # not out=: into a view the library multiplies image by image
        return context, (probabilities, p_step, v_u, v_step, v_after, mask)

    def backward(self, g: Tensor, saved: tuple[Tensor, ...], grad_v: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        """Return the gradients of scores and vectors, and write that of the values to ``grad_v``.

        Args:
            g: gradient of the context (B, N, A).
            saved: second result of :meth:`forward`.
            grad_v: (B, N, A), overwritten.
        """
        probabilities, p_step, v_u, v_step, v_after, mask = saved
        v_grid, p_grid = self.v.grid_for(g.shape), self.p.grid_for(probabilities.shape)
        p_u, codes = place_and_codes(p_grid, probabilities, p_step, None)
        scaled = g * p_step  # p = code*step: the step of a query multiplies its gradient, not its row of codes
        v_rounded = values(v_grid, v_u, v_step, v_after)
        grad_p = torch.empty_like(codes)
        quantized = codes if mask is None else codes.mul_(mask)
        parts = (self.split(x) for x in (v_rounded, g, scaled, grad_v))  # H of (B, N, d) each
        for p, grad, value, one, scaled_one, out in zip(quantized, grad_p, *parts, strict=True):
            torch.bmm(one, value.transpose(1, 2), out=grad)  # value^T (B, d, N), grad (B, N, N)
            out.copy_(torch.bmm(p.transpose(1, 2), scaled_one))  # p^T (B, N, N), keys by queries; out (B, N, d)
        if mask is not None:
            grad_p.mul_(mask)
        grad_p_scale, _ = p_grid.gradients(grad_p, p_u)
        torch._softmax_backward_data(grad_p, probabilities, -1, grad_p.dtype, grad_input=grad_p)
        grad_v_after = v_grid.move_gradient(grad_v) if v_after is not None else None
        grad_v_scale, grad_v_before = v_grid.gradients(grad_v, v_u)
        return grad_p, (grad_v_scale, grad_v_before, grad_v_after, grad_p_scale)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the heads of x (B, N, A) as views (B, N, d)."""
        return x.chunk(self.heads, dim=-1)  # H of (B, N, d)


class _PlainAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: tuple[Grid, Context, float], qkv: Tensor, *vectors: Any) -> Tensor:
        grid, context, factor = plan
        scale, before, after, *rest = vectors
        batch, tokens, width = qkv.shape
        parts = qkv.unflatten(-1, (3, -1))  # (B, N, 3, A)
        step = grid.step(scale)
        u = grid.place(parts[:, :, :2], step, before)  # (B, N, 2, A)
        q, k = values(grid, u, step, after).unbind(2)  # (B, N, A) each
        scores = qkv.new_empty(context.heads, batch, tokens, tokens)
        for out, one, other in zip(scores, context.split(q), context.split(k), strict=True):
            out.baddbmm_(one, other.transpose(1, 2), beta=0, alpha=factor)  # (B, N, d) x (B, d, N) to (B, N, N)
        out, saved = context.forward(scores, parts[:, :, 2], *rest)
        ctx.save_for_backward(u, step, after, *saved)
        ctx.grid, ctx.context, ctx.factor, ctx.width = grid, context, factor, width
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        u, step, after, *saved = ctx.saved_tensors
        grid: Grid = ctx.grid
        context: Context = ctx.context
        grad_qkv = g.new_empty(*g.shape[:2], ctx.width)
        parts = grad_qkv.unflatten(-1, (3, -1))  # (B, N, 3, A)
        grad_scores, grad_vectors = context.backward(g, tuple(saved), parts[:, :, 2])
        q, k = values(grid, u, step, after).unbind(2)  # (B, N, A) each
        grad_qk = parts[:, :, :2]  # (B, N, 2, A), a view
        grad_scores.mul_(ctx.factor)
        parts_of_heads = (context.split(x) for x in (q, k, *grad_qk.unbind(2)))  # (B, N, A) each to H of (B, N, d)
        for grad, one, other, out_q, out_k in zip(grad_scores, *parts_of_heads, strict=True):
            out_q.copy_(torch.bmm(grad, other))
            out_k.copy_(torch.bmm(grad.transpose(1, 2), one))  # grad^T (B, N, N), keys by queries
        grad_after = None if after is None else grid.move_gradient(grad_qk)[: after.numel()]
        grad_scale, grad_before = grid.gradients(grad_qk, u)
        return None, grad_qkv, grad_scale, grad_before, grad_after, *grad_vectors
