"""Quantized attention as one function of the autograd graph: what lies between two linear layers, fused.

Queries, keys and values stay token by token, (B, N, A), scores and probabilities head by head, (H, B, N, N): the
product of a head reads views, and no tensor is copied to bring the heads forward. Of a rounded tensor only its place on
the grid is kept, of the probabilities only the softmax; the rounded values are made again in the backward pass.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ofq.quant.quantizers.lsq import LSQQuantizer
from ofq.quant.rounding import QuantGrid


@dataclass(frozen=True)
class Heads:
    """What the fused attentions have in common.

    Attributes:
        count: H.
        values: quantizer of the values (B, N, A).
        probabilities: quantizer of the probabilities, one step a query.
        dropout: rate for the quantized probabilities; 0 in evaluation.
    """

    count: int
    values: LSQQuantizer
    probabilities: LSQQuantizer
    dropout: float


def plain_attention(qkv: Tensor, qk: LSQQuantizer, heads: Heads, scale: float) -> Tensor:
    """Context of quantized queries, keys, values and probabilities.

    Args:
        qkv: queries, keys and values side by side (B, N, 3A).
        qk: quantizer of queries and keys as (B, N, 2, A).
        heads: what stands behind the scores.
        scale: of the scores, 1/sqrt(d).

    Returns:
        (B, N, A).
    """
    batch, tokens, width = qkv.shape
    context = Context.of(heads, batch, tokens, width // 3)
    grid = qk.grid_for(torch.Size((batch, tokens, 2, width // 3)))
    out: Tensor = _PlainAttention.apply(
        qkv, qk.scale, qk.before, qk.after, *context.parameters(heads), grid, context, scale
    )
    return out


@dataclass(frozen=True)
class Context:
    """Softmax, quantized probabilities and quantized values, forward and backward."""

    heads: int
    v: QuantGrid
    p: QuantGrid
    dropout: float

    @classmethod
    def of(cls, heads: Heads, batch: int, tokens: int, width: int) -> "Context":
        """For a batch of B images with N tokens and values of width A."""
        v = heads.values.grid_for(torch.Size((batch, tokens, width)))
        p = heads.probabilities.grid_for(torch.Size((batch, heads.count, tokens, tokens)))
        return cls(heads.count, v, p, heads.dropout)

    @staticmethod
    def parameters(heads: Heads) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """The learned vectors in the order of the last arguments of :meth:`forward`."""
        v = heads.values
        return v.scale, v.before, v.after, heads.probabilities.scale

    def forward(
        self,
        scores: Tensor,
        v: Tensor,
        v_scale: Tensor,
        v_before: Tensor | None,
        v_after: Tensor | None,
        p_scale: Tensor,
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Scores (H, B, N, N) and values (B, N, A) to the context (B, N, A), and what the way back needs."""
        v_step, p_step = self.v.step(v_scale), self.p.step(p_scale)
        # In place, here and on the way back: these are the largest tensors, and holes of their size stay in the heap.
        probabilities = torch.softmax(scores, -1, out=scores)
        mask = None
        quantized = self.p.rounded(probabilities, p_step, None)
        if self.dropout:
            mask = torch.empty_like(quantized).bernoulli_(1 - self.dropout).div_(1 - self.dropout)
            quantized.mul_(mask)
        v_u, values = self.v.place_and_values(v, v_step, v_before, v_after)
        context = torch.empty_like(values)
        for out, p, part in zip(self.split(context), quantized, self.split(values), strict=True):
            out.copy_(torch.bmm(p, part))  # not out=: into a view the library multiplies image by image
        return context, (probabilities, p_step, v_u, v_step, v_after, mask)

    def backward(
        self, g: Tensor, saved: tuple[Tensor, ...], grad_v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
        """Gradients of the scores and, in ``grad_v``, of the values, and those of :meth:`parameters`."""
        probabilities, p_step, v_u, v_step, v_after, mask = saved
        p_u, codes = self.p.place_and_codes(probabilities, p_step, None)
        scaled = g * p_step  # the step of a query goes with its gradient
        values = self.v.values(v_u, v_step, v_after)
        grad_p = torch.empty_like(codes)
        quantized = codes if mask is None else codes.mul_(mask)
        parts = (self.split(x) for x in (values, g, scaled, grad_v))
        for p, grad, value, one, scaled_one, out in zip(quantized, grad_p, *parts, strict=True):
            torch.bmm(one, value.transpose(1, 2), out=grad)
            out.copy_(torch.bmm(p.transpose(1, 2), scaled_one))
        if mask is not None:
            grad_p.mul_(mask)
        grad_p_scale, _ = self.p.gradients(grad_p, p_u, p_step.numel())
        torch._softmax_backward_data(grad_p, probabilities, -1, grad_p.dtype, grad_input=grad_p)
        grad_v_after = self.v.move_gradient(grad_v) if v_after is not None else None
        grad_v_scale, grad_v_before = self.v.gradients(grad_v, v_u, v_step.numel())
        return grad_p, grad_v_scale, grad_v_before, grad_v_after, grad_p_scale

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The heads of (B, N, A), views (B, N, d)."""
        return x.chunk(self.heads, dim=-1)


class _PlainAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        scale: Tensor,
        before: Tensor | None,
        after: Tensor | None,
        v_scale: Tensor,
        v_before: Tensor | None,
        v_after: Tensor | None,
        p_scale: Tensor,
        grid: QuantGrid,
        context: Context,
        factor: float,
    ) -> Tensor:
        batch, tokens, width = qkv.shape
        parts = qkv.unflatten(-1, (3, -1))
        step = grid.step(scale)
        u, qk = grid.place_and_values(parts[:, :, :2], step, before, after)
        q, k = qk.unbind(2)
        scores = qkv.new_empty(context.heads, batch, tokens, tokens)
        for out, one, other in zip(scores, context.split(q), context.split(k), strict=True):
            out.baddbmm_(one, other.transpose(1, 2), beta=0, alpha=factor)
        out, saved = context.forward(scores, parts[:, :, 2], v_scale, v_before, v_after, p_scale)
        ctx.save_for_backward(u, step, after, *saved)
        ctx.grid, ctx.context, ctx.factor, ctx.width = grid, context, factor, width
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        u, step, after, *saved = ctx.saved_tensors
        grid: QuantGrid = ctx.grid
        context: Context = ctx.context
        grad_qkv = g.new_empty(*g.shape[:2], ctx.width)
        parts = grad_qkv.unflatten(-1, (3, -1))
        grad_scores, *grad_rest = context.backward(g, tuple(saved), parts[:, :, 2])
        q, k = grid.values(u, step, after).unbind(2)
        grad_qk = parts[:, :, :2]
        grad_scores.mul_(ctx.factor)
        parts_of_heads = (context.split(x) for x in (q, k, *grad_qk.unbind(2)))
        for grad, one, other, out_q, out_k in zip(grad_scores, *parts_of_heads, strict=True):
            out_q.copy_(torch.bmm(grad, other))
            out_k.copy_(torch.bmm(grad.transpose(1, 2), one))
        grad_after = None if after is None else grid.move_gradient(grad_qk)[: after.numel()]
        grad_scale, grad_before = grid.gradients(grad_qk, u, step.numel())
        return grad_qkv, grad_scale, grad_before, grad_after, *grad_rest, None, None, None
