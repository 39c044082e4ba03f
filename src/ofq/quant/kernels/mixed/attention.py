"""Attention between its projections: what lies between two linear layers."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ofq.quant.kernels.attention import Context
from ofq.quant.kernels.grid import learned
from ofq.quant.kernels.mixed.parts import Side, flat, of_step, product_dtype, runner, side, summed
from ofq.quant.kernels.mixed.probabilities import has_kernel
from ofq.quant.quantizers.base import in_dtype, wide
from ofq.quant.quantizers.lsq import Grid, LSQQuantizer

_ALIGNED = 8  # keys are padded to a multiple of it: a card multiplies rows of another length several times slower


def halves(whole: Side) -> tuple[Side, Side]:
    """Return the sides of queries and of keys, (B, N, A) each, from that of both, (B, N, 2, A).

    The ``after`` of a key adds the same number to all scores of a query, which softmax cancels: it is left out.
    """
    parts = []
    for i in range(2):
        before, after = (None if bias is None else bias[i] for bias in (whole.before, whole.after))
        parts.append(Side(whole.step[:, i], before, after if i == 0 else None, whole.low, whole.high))
    return parts[0], parts[1]


def mixed_attention(qkv: Tensor, qk: LSQQuantizer, context: Context, scale: float) -> Tensor:
    """Compute the context of quantized queries, keys, values and probabilities, as ``plain_attention`` does."""
    batch, tokens, width = qkv.shape
    grids = qk.grid_for(torch.Size((batch, tokens, 2, width // 3))), *grids_of(context, qkv.shape[:2], width // 3)
    plan = grids, context.heads, scale, product_dtype(qkv), runner(qkv)
    mask = dropout_mask(qkv, context)
    out: Tensor = _Attention.apply(plan, mask, qkv, *learned(qk), *context.learned())
    return out


def grids_of(context: Context, rows: torch.Size, width: int) -> tuple[Grid, Grid]:
    """Return the grids of values (B, N, A) and probabilities (B, H, N, N)."""
    batch, tokens = rows
    shape = torch.Size((batch, context.heads, tokens, tokens))
    return context.v.grid_for(torch.Size((batch, tokens, width))), context.p.grid_for(shape)


def dropout_mask(x: Tensor, context: Context) -> Tensor | None:
    """Draw which probabilities are kept, (B, H, N, N) of 0 and 1/(1 - rate), or None without dropout."""
    if not context.dropout:
        return None
    kept = 1 - context.dropout
    batch, tokens = x.shape[:2]
    return torch.empty(batch, context.heads, tokens, tokens, device=x.device).bernoulli_(kept) / kept


class Scores(NamedTuple):
    """What makes probabilities of products of codes (B, H, N, K), of which the first N columns are keys.

    Attributes:
        query: step of each query (N, 1).
        key: step of each key times the factor of the scores, (N,) or (H, 1, N).
        shift: what the ``after`` of a query adds to step*code, (B, H, 1, N), or None.
        p_step: step of the probabilities (N, 1).
        high: their largest code.
    """

    query: Tensor
    key: Tensor
    shift: Tensor | None
    p_step: Tensor
    high: Any

    def shifted(self, shift: Tensor | None) -> "Scores":
        """Return these with what ``after`` adds."""
        return Scores(self.query, self.key, shift, self.p_step, self.high)

    def probabilities(self, products: Tensor) -> Tensor:
        """Return softmax of the scores (B, H, N, N), float32."""
        return (self._scores(products, self.shift) * self.key).softmax(-1)

    def probabilities_again(self, products: Tensor) -> Tensor:
        """Return :meth:`probabilities` for the backward pass, equal to the bit: of scores with the other sign, softmin.

        The compiler joins equal expressions, and would keep float32 results of the forward pass instead of the products
        that both passes begin with, which are half as large. So they differ from the first operation on.
        """
        shift = None if self.shift is None else -self.shift
        return F.softmin(self._scores(-products, shift) * self.key, -1)

    def _scores(self, products: Tensor, shift: Tensor | None) -> Tensor:
        scores = wide(products[..., : len(self.query)]) * self.query
        return scores if shift is None else scores + shift

    def codes(self, probabilities: Tensor) -> Tensor:
        """Return the codes of probabilities, float32."""
        return (probabilities / self.p_step).clamp(0, self.high).round()


class Layout(NamedTuple):
    """How the heads of an attention are laid out for products.

    Attributes:
        heads: H.
        tokens: N.
        size: K, tokens with those that are padded.
        dtype: of the products.
    """

    heads: int
    tokens: int
    size: int
    dtype: torch.dtype

    def queries(self, x: Tensor) -> Tensor:
        """Return x (B, N, H*d) by heads (B, H, N, d), in the dtype of the products."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2).to(self.dtype).contiguous()

    def keys(self, x: Tensor) -> Tensor:
        """Return x (B, N, H*d) by heads (B, H, K, d), with zeros behind the tokens, in the dtype of the products."""
        heads = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return F.pad(heads, (0, 0, 0, self.size - self.tokens)).to(self.dtype).contiguous()

    def by_keys(self, x: Tensor) -> Tensor:
        """Return x (B, H, N, N) with zeros behind the keys (B, H, N, K), in the dtype of the products."""
        return F.pad(x, (0, self.size - self.tokens)).to(self.dtype).contiguous()

    def rows(self, x: Tensor) -> Tensor:
        """Return x (B, H, N or K, d) as (B, N, H*d), float32."""
        return wide(x[:, :, : self.tokens].transpose(1, 2).flatten(2))


def layout(x: Tensor, heads: int, dtype: torch.dtype) -> Layout:
    """Return the layout for tokens x (B, N, ...)."""
    tokens = x.shape[1]
    return Layout(heads, tokens, -(-tokens // _ALIGNED) * _ALIGNED, dtype)


def p_codes(products: Tensor, scores: Scores, mask: Tensor | None, shape: Layout) -> tuple[Tensor, Tensor]:
    """Return the codes of probabilities (B, H, N, K), kept ones only, and their sums (B, H, N, 1)."""
    if has_kernel(products, mask):
        return torch.ops.ofq.probabilities(products, *scores)
    codes = scores.codes(scores.probabilities(products))
    if mask is not None:
        codes = codes * mask
    return shape.by_keys(codes), codes.sum(-1, keepdim=True)


def context_of(product: Tensor, sums: Tensor, p_step: Tensor, v: Side) -> Tensor:
    """Return p_step*(product*step + sums*after) of the heads (B, H, N, d), as (B, N, A) of the product's dtype."""
    heads = product.shape[1]
    out = wide(product) * v.step.view(heads, 1, -1)  # (H, 1, d)
    if v.after is not None:
        out = out + sums * v.after.view(heads, 1, -1)  # (H, 1, d)
    return in_dtype((out * p_step).transpose(1, 2).flatten(2), product.dtype)


def p_gradients(
    products: Tensor, grad: Tensor, scores: Scores, mask: Tensor | None, shape: Layout
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the codes of the probabilities and the gradient of the scores, both (B, H, N, K), and dL/dp_step (N, 1).

    ``grad`` is that of the rounded probabilities times their step. The gradient of the scores lacks their factor.
    """
    if has_kernel(products, mask):
        codes, grad_scores, rows = torch.ops.ofq.probability_gradients(products, grad, *scores)
        return codes, grad_scores, rows.sum_to_size(scores.p_step.shape)
    p = scores.probabilities_again(products)
    u = p / scores.p_step
    codes = u.clamp(0, scores.high).round()
    g = wide(grad[..., : shape.tokens]) / scores.p_step
    kept = codes if mask is None else codes * mask
    if mask is not None:
        g = g * mask
    inside = torch.where(u <= scores.high, g, 0.0)
    grad_step = summed(codes * g - u * inside, scores.p_step.shape)
    inner = (inside * p).sum(-1, keepdim=True)
    return shape.by_keys(kept), shape.by_keys(p * (inside - inner)), grad_step


def _split_codes(
    qkv: Tensor, parts: tuple[Side, Side, Side], shape: Layout
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the codes of queries (B, H, N, d), keys and values (B, H, K, d), and what ``after`` adds (B, H, 1, N)."""
    q, k, v = (part.codes(x) for part, x in zip(parts, qkv.chunk(3, -1), strict=True))
    shift = None
    if parts[0].after is not None:
        shift = (k * parts[0].after).unflatten(-1, (shape.heads, -1)).sum(-1).transpose(1, 2).unsqueeze(2)
    return shape.queries(q), shape.keys(k), shape.keys(v), shift


def _split_values(
    qkv: Tensor, g: Tensor, p_step: Tensor, parts: tuple[Side, Side, Side], shape: Layout
) -> tuple[Tensor, ...]:
    """Return rounded queries, keys and values as :func:`_split_codes` does, and g*p_step (B, H, N, d)."""
    q, k, v = (part.values(x) for part, x in zip(parts, qkv.chunk(3, -1), strict=True))
    return shape.queries(q), shape.keys(k), shape.keys(v), shape.queries(wide(g) * p_step)


def _split_gradients(
    grads: tuple[Tensor, Tensor, Tensor], qkv: Tensor, parts: tuple[Side, Side, Side], factor: float, shape: Layout
) -> tuple[Tensor | None, ...]:
    """Return the gradient of qkv, of steps and biases of queries and keys, and of those of values.

    ``grads`` are those of queries, of keys, both but for the factor of the scores, and of values.
    """
    rows = [shape.rows(grads[0]) * factor, shape.rows(grads[1]) * factor, shape.rows(grads[2])]  # (B, N, A) each
    found = [part.gradients(g, x) for part, g, x in zip(parts, rows, qkv.chunk(3, -1), strict=True)]
    (q, q_step, q_before), (k, k_step, k_before), (v, v_step, v_before) = found
    step = torch.stack([q_step, k_step], 1)  # (N, 1) each to (N, 2, 1)
    before = None if q_before is None or k_before is None else torch.stack([q_before, k_before])
    after, v_after = (None if parts[i].after is None else rows[i].flatten(0, 1).sum(0) for i in (0, 2))
    return torch.cat([q, k, v], -1).to(qkv.dtype), step, before, after, v_step, v_before, v_after


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Any, mask: Tensor | None, qkv: Tensor, *vectors: Any) -> Tensor:
        _, heads, _, dtype, run = plan
        shape = layout(qkv, heads, dtype)
        parts, scores = _Attention.sides(plan, vectors)
        q, k, v, shift = run(_split_codes)(qkv, parts, shape)
        products = q @ k.transpose(-1, -2)  # (B, H, N, d) x (B, H, d, K) to (B, H, N, K)
        p, sums = run(p_codes)(products, scores.shifted(shift), mask, shape)
        ctx.save_for_backward(qkv, products, mask, shift, *vectors)
        ctx.plan = plan
        out: Tensor = run(context_of)(p @ v, sums, scores.p_step, parts[2])  # p (B, H, N, K), v (B, H, K, d)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        qkv, products, mask, shift, *vectors = ctx.saved_tensors
        grids, heads, factor, dtype, run = ctx.plan
        shape = layout(qkv, heads, dtype)
        parts, scores = _Attention.sides(ctx.plan, vectors)
        q, k, v, grad = run(_split_values)(qkv, g, scores.p_step, parts, shape)
        p, grad_scores, p_step = run(p_gradients)(
            *(products, grad @ v.transpose(-1, -2), scores.shifted(shift), mask, shape)
        )
        # grad_scores and p (B, H, N, K), queries by keys
        grads = grad_scores @ k, grad_scores.transpose(-1, -2) @ q, p.transpose(-1, -2) @ grad
        found = run(_split_gradients)(grads, qkv, parts, factor, shape)
        grad_qkv, step, before, after, v_step, v_before, v_after = found
        if after is not None:  # that of the keys, if there is one, gets none: softmax cancels it
            after = F.pad(after, (0, vectors[2].numel() - after.numel()))
        return (
            *(None, None, grad_qkv, of_step(step, grids[0]), flat(before), after),
            *(of_step(v_step, grids[1]), flat(v_before), v_after, of_step(p_step, grids[2])),
        )

    @staticmethod
    def sides(plan: Any, vectors: Any) -> tuple[tuple[Side, Side, Side], Scores]:
        """Return what rounds queries, keys and values, and what makes scores."""
        (qk_grid, v_grid, p_grid), _, factor, *_ = plan
        *qk_vectors, v_scale, v_before, v_after, p_scale = vectors
        q, k = halves(side(qk_grid, *qk_vectors))
        scores = Scores(q.step, k.step.flatten() * factor, None, p_grid.step(p_scale), p_grid.high)
        return (q, k, side(v_grid, v_scale, v_before, v_after)), scores
