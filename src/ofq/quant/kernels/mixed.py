"""The fused functions for autocast and for the compiler: rounding in float32, products in the dtype of autocast.

Both factors of a forward product are integer codes, which bfloat16 holds exactly; their steps multiply the product
afterwards, in float32. So what autocast rounds is the result of a product, never what goes into it.

Nothing is done in place, and what is summed over tokens and images is summed by rows first, because the compiler then
makes one pass of it. Where it is not the compiler that calls, on a card, the elementwise parts are compiled by
themselves. Of the input of a product only the input itself is kept; all else is made again in the backward pass.
"""

from collections.abc import Callable
from functools import cache
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils._triton import has_triton

from ofq.quant.kernels.attention import Context
from ofq.quant.kernels.grid import learned
from ofq.quant.kernels.products import Weight
from ofq.quant.kernels.qkr import Products
from ofq.quant.quantizers.base import Quantizer, wide
from ofq.quant.quantizers.lsq import Grid, LSQQuantizer

_SMALL = 2**20  # elements below which a part is not worth compiling, such as the input of a head
_ALIGNED = 8  # keys are padded to a multiple of it: a card multiplies rows of another length several times slower


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
        pull = _summed(self.nearest(u) * g - u * inside, self.step.shape)
        return inside, pull, None if self.before is None else _summed(inside, self.before.shape)


def side(grid: Grid, scale: Tensor, before: Tensor | None, after: Tensor | None) -> Side:
    """Return what rounds on a grid."""
    shape = grid.quantizer.shape
    return Side(
        grid.step(scale), None if before is None else before.view(shape), grid.shift(after), grid.low, grid.high
    )


def halves(whole: Side) -> tuple[Side, Side]:
    """Return the sides of queries and of keys, (B, N, A) each, from that of both, (B, N, 2, A).

    The ``after`` of a key adds the same number to all scores of a query, which softmax cancels: it is left out.
    """
    parts = []
    for i in range(2):
        before, after = (None if bias is None else bias[i] for bias in (whole.before, whole.after))
        parts.append(Side(whole.step[:, i], before, after if i == 0 else None, whole.low, whole.high))
    return parts[0], parts[1]


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


def mixed_linear(x: Tensor, quantizer: LSQQuantizer, weight: Weight, bias: Tensor | None) -> Tensor:
    """Compute (Q(x + before) + after) W^T + bias, as :func:`ofq.quant.kernels.products.quantized_linear` does."""
    dtype = product_dtype(x)
    plan = quantizer.grid_for(x.shape), dtype
    out: Tensor = _Linear.apply(plan, *factor(weight, dtype), x, *learned(quantizer), weight.values, bias)
    return out


def _linear_codes(x: Tensor, part: Side, dtype: torch.dtype) -> Tensor:
    return part.codes(x).to(dtype)


def _linear_out(
    product: Tensor, step: Tensor, row: Tensor | None, bias: Tensor | None, values: Tensor, after: Tensor | None
) -> Tensor:
    return scaled(product, step, row, shifted(bias, values, after)).to(product.dtype)


def _linear_scaled(g: Tensor, x: Tensor, part: Side, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    g = wide(g)
    return (g * part.step).to(dtype), g.flatten(0, -2).sum(0), part.codes(x).to(dtype)


def _linear_input(grad: Tensor, x: Tensor, part: Side) -> tuple[Tensor, Tensor, Tensor | None]:
    grad_x, grad_step, grad_before = part.gradients(wide(grad) / part.step, x)
    return grad_x.to(x.dtype), grad_step, grad_before


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: tuple[Grid, torch.dtype], integers: Tensor, row: Tensor | None, x: Tensor, *tensors: Any
    ) -> Tensor:
        grid, dtype = plan
        scale, before, after, values, bias = tensors
        part = side(grid, scale, before, after)
        codes = _run(_linear_codes, x)(x, part, dtype)
        product = (codes.flatten(0, -2) @ integers.t()).unflatten(0, x.shape[:-1])  # (..., out)
        ctx.save_for_backward(x, scale, before, after, values)
        ctx.plan = plan
        return _run(_linear_out, x)(product, part.step, row, bias, values, part.after)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, before, after, values = ctx.saved_tensors
        grid, dtype = ctx.plan
        needs_values, needs_bias = ctx.needs_input_grad[7:]
        part = side(grid, scale, before, after)
        # The gradient times the step of its token: so the codes need none, and the gradient of x is divided by it.
        grad, grad_bias, codes = _run(_linear_scaled, x)(g, x, part, dtype)
        rows = grad.flatten(0, -2)  # (rows, out)
        grad_x, grad_step, grad_before = _run(_linear_input, x)(
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
            *(None, None, None, grad_x, _of_step(grad_step, grid), _flat(grad_before), grad_after),
            *(None if grad_values is None else grad_values.to(values.dtype), grad_bias if needs_bias else None),
        )


def mixed_attention(qkv: Tensor, qk: LSQQuantizer, context: Context, scale: float) -> Tensor:
    """Compute the context of quantized queries, keys, values and probabilities, as ``plain_attention`` does."""
    batch, tokens, width = qkv.shape
    grids = qk.grid_for(torch.Size((batch, tokens, 2, width // 3))), *_grids(context, qkv.shape[:2], width // 3)
    plan = grids, context.heads, scale, product_dtype(qkv)
    mask = _mask(qkv, context)
    out: Tensor = _Attention.apply(plan, mask, qkv, *learned(qk), *context.learned())
    return out


def _grids(context: Context, rows: torch.Size, width: int) -> tuple[Grid, Grid]:
    """Return the grids of values (B, N, A) and probabilities (B, H, N, N)."""
    batch, tokens = rows
    shape = torch.Size((batch, context.heads, tokens, tokens))
    return context.v.grid_for(torch.Size((batch, tokens, width))), context.p.grid_for(shape)


def _mask(x: Tensor, context: Context) -> Tensor | None:
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

    def probabilities(self, products: Tensor) -> Tensor:
        """Return softmax of the scores (B, H, N, N), float32."""
        return self._shifted(products).mul(self.key).softmax(-1)

    def probabilities_again(self, products: Tensor) -> Tensor:
        """Return :meth:`probabilities` for the backward pass, equal to the bit and written differently.

        The compiler joins equal expressions, and would keep their float32 result instead of the products that both are
        made of, which are half as large.
        """
        return F.softmin(self._shifted(products).mul(-self.key), -1)

    def _shifted(self, products: Tensor) -> Tensor:
        scores = wide(products[..., : len(self.query)]) * self.query
        return scores if self.shift is None else scores + self.shift

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


def _p_codes(products: Tensor, scores: Scores, mask: Tensor | None, shape: Layout) -> tuple[Tensor, Tensor]:
    """Return the codes of probabilities (B, H, N, K), kept ones only, and their sums (B, H, N, 1)."""
    codes = scores.codes(scores.probabilities(products))
    if mask is not None:
        codes = codes * mask
    return shape.by_keys(codes), codes.sum(-1, keepdim=True)


def _context(product: Tensor, sums: Tensor, p_step: Tensor, v: Side) -> Tensor:
    """Return p_step*(product*step + sums*after) of the heads (B, H, N, d), as (B, N, A) of the product's dtype."""
    heads = product.shape[1]
    out = wide(product) * v.step.view(heads, 1, -1)  # (H, 1, d)
    if v.after is not None:
        out = out + sums * v.after.view(heads, 1, -1)  # (H, 1, d)
    return (out * p_step).transpose(1, 2).flatten(2).to(product.dtype)


def _p_gradients(
    products: Tensor, grad: Tensor, scores: Scores, mask: Tensor | None, shape: Layout
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the codes of the probabilities and the gradient of the scores, both (B, H, N, K), and dL/dp_step (N, 1).

    ``grad`` is that of the rounded probabilities times their step. The gradient of the scores lacks their factor.
    """
    p = scores.probabilities_again(products)
    u = p / scores.p_step
    codes = u.clamp(0, scores.high).round()
    g = wide(grad[..., : shape.tokens]) / scores.p_step
    kept = codes if mask is None else codes * mask
    if mask is not None:
        g = g * mask
    inside = torch.where(u <= scores.high, g, 0.0)
    grad_step = _summed(codes * g - u * inside, scores.p_step.shape)
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
        shape = layout(qkv, plan[1], plan[3])
        parts, scores = _Attention.sides(plan, vectors)
        q, k, v, shift = _run(_split_codes, qkv)(qkv, parts, shape)
        products = q @ k.transpose(-1, -2)  # (B, H, N, d) x (B, H, d, K) to (B, H, N, K)
        p, sums = _run(_p_codes, qkv)(products, scores._replace(shift=shift), mask, shape)
        ctx.save_for_backward(qkv, products, mask, shift, *vectors)
        ctx.plan = plan
        out: Tensor = _run(_context, qkv)(p @ v, sums, scores.p_step, parts[2])  # p (B, H, N, K), v (B, H, K, d)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        qkv, products, mask, shift, *vectors = ctx.saved_tensors
        grids, heads, factor, dtype = ctx.plan
        shape = layout(qkv, heads, dtype)
        parts, scores = _Attention.sides(ctx.plan, vectors)
        q, k, v, grad = _run(_split_values, qkv)(qkv, g, scores.p_step, parts, shape)
        p, grad_scores, p_step = _run(_p_gradients, qkv)(
            *(products, grad @ v.transpose(-1, -2), scores._replace(shift=shift), mask, shape)
        )
        # grad_scores and p (B, H, N, K), queries by keys
        grads = grad_scores @ k, grad_scores.transpose(-1, -2) @ q, p.transpose(-1, -2) @ grad
        found = _run(_split_gradients, qkv)(grads, qkv, parts, factor, shape)
        grad_qkv, step, before, after, v_step, v_before, v_after = found
        if after is not None:  # that of the keys, if there is one, gets none: softmax cancels it
            after = F.pad(after, (0, vectors[2].numel() - after.numel()))
        return (
            *(None, None, grad_qkv, _of_step(step, grids[0]), _flat(before), after),
            *(_of_step(v_step, grids[1]), _flat(v_before), v_after, _of_step(p_step, grids[2])),
        )

    @staticmethod
    def sides(plan: Any, vectors: Any) -> tuple[tuple[Side, Side, Side], Scores]:
        """Return what rounds queries, keys and values, and what makes scores."""
        (qk_grid, v_grid, p_grid), _, factor, _ = plan
        *qk_vectors, v_scale, v_before, v_after, p_scale = vectors
        q, k = halves(side(qk_grid, *qk_vectors))
        scores = Scores(q.step, k.step.flatten() * factor, None, p_grid.step(p_scale), p_grid.high)
        return (q, k, side(v_grid, v_scale, v_before, v_after)), scores


def mixed_qkr(
    x: Tensor, quantizer: LSQQuantizer, products: Products, u_quantizer: LSQQuantizer, context: Context, scale: float
) -> Tensor:
    """Compute the context of query-key reparameterization, as ``qkr_attention`` does."""
    batch, tokens, channels = x.shape
    p, v, v_bias = products
    dtype = product_dtype(x)
    u_grid = u_quantizer.grid_for(torch.Size((batch, tokens, context.heads, channels)))
    grids = quantizer.grid_for(x.shape), u_grid, *_grids(context, x.shape[:2], len(v.values))
    plan = grids, context.heads, scale, dtype
    out: Tensor = _QKR.apply(
        *(plan, _mask(x, context), x, *factor(p, dtype), *factor(v, dtype), *learned(quantizer), p.values),
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
        shape = layout(x, plan[1], plan[3])
        sides, scores = _QKR.sides(plan, tensors)
        codes = _run(_linear_codes, x)(x, sides[0], shape.dtype)  # (B, N, C)
        u, v = (torch.matmul(codes, weight.t()) for weight in (tensors[0], tensors[2]))  # (B, N, H*C), (B, N, A)
        u_codes, v_codes, shift = _run(_uv_codes, x)(_QKR.uv(u, v, sides[0], tensors), sides, shape)
        # One product for all heads: (B, N, H*K), seen as (B, H, N, K).
        products = torch.bmm(codes, u_codes.flatten(1, 2).transpose(1, 2)).unflatten(-1, (shape.heads, -1))
        products = products.transpose(1, 2)
        p, sums = _run(_p_codes, x)(products, scores._replace(shift=shift), mask, shape)
        ctx.save_for_backward(x, u, v, products, mask, shift, *tensors)
        ctx.plan = plan
        out: Tensor = _run(_context, x)(p @ v_codes, sums, scores.p_step, sides[2])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, u, v, products, mask, shift, *tensors = ctx.saved_tensors
        grids, heads, factor, dtype = ctx.plan
        p_values, u_after, w_values, w_bias = (tensors[i] for i in (7, 10, 11, 12))
        shape = layout(x, heads, dtype)
        sides, scores = _QKR.sides(ctx.plan, tensors)
        uv = _QKR.uv(u, v, sides[0], tensors)
        x_values, keys, values, grad = _run(_uv_values, x)(uv, x, g, scores.p_step, sides, shape)
        p, grad_scores, p_step = _run(_p_gradients, x)(
            *(products, grad @ values.transpose(-1, -2), scores._replace(shift=shift), mask, shape)
        )
        by_query = grad_scores.transpose(1, 2).flatten(2)  # (B, N, H*K)
        grad_keys = torch.bmm(by_query.transpose(1, 2), x_values).unflatten(1, (heads, -1))  # (B, H, K, C)
        grad_queries = torch.bmm(by_query, keys.flatten(1, 2))  # (B, N, C)
        grad_u, grad_v, v_bias, u_step, u_before, v_step, v_before, v_after = _run(_uv_gradients, x)(
            *((grad_keys, p.transpose(-1, -2) @ grad), uv, sides, factor, shape)
        )
        rows, u_rows, v_rows = x_values.flatten(0, 1), grad_u.flatten(0, 1), grad_v.flatten(0, 1)
        parts = grad_queries, u_rows @ p_values.to(dtype), v_rows @ w_values.to(dtype)
        grad_x, x_step, x_before, x_after = _run(_x_gradients, x)(parts, x, sides[0], factor)
        return (
            *(None, None, grad_x, None, None, None, None),
            *(_of_step(x_step, grids[0]), _flat(x_before), None if sides[0].after is None else x_after),
            *((u_rows.t() @ rows).to(p_values.dtype), _of_step(u_step, grids[1]), _flat(u_before)),
            None if u_after is None else torch.zeros_like(u_after),  # softmax cancels it
            *((v_rows.t() @ rows).to(w_values.dtype), None if w_bias is None else v_bias),
            *(_of_step(v_step, grids[2]), _flat(v_before), v_after, _of_step(p_step, grids[3])),
        )

    @staticmethod
    def sides(plan: Any, tensors: Any) -> tuple[tuple[Side, Side, Side], Scores]:
        """Return what rounds x, u and the values, and what makes scores."""
        (x_grid, u_grid, v_grid, p_grid), _, factor, _ = plan
        x_side, u_side = side(x_grid, *tensors[4:7]), side(u_grid, *tensors[8:11])
        v_scale, v_before, v_after, p_scale = tensors[13:]
        key = u_side.step.permute(1, 2, 0) * factor  # (N, H, 1) to (H, 1, N)
        scores = Scores(x_side.step, key, None, p_grid.step(p_scale), p_grid.high)
        # The ``after`` of u adds the same number to all scores of a query, which softmax cancels.
        return (x_side, u_side._replace(after=None), side(v_grid, v_scale, v_before, v_after)), scores

    @staticmethod
    def uv(u: Tensor, v: Tensor, x: Side, tensors: Any) -> _Uv:
        """Return the products of the codes of x with what belongs to them."""
        _, p_row, _, w_row, *_ = tensors
        biases = shifted(None, tensors[7], x.after), shifted(tensors[12], tensors[11], x.after)
        return _Uv(u, v, x.step, (p_row, w_row), biases)


def _summed(x: Tensor, shape: torch.Size) -> Tensor:
    """Sum x to a shape that broadcasts against it, over the last axes first."""
    ones = len(list(takewhile(lambda size: size == 1, reversed(shape))))
    return (x.sum(list(range(-ones, 0)), keepdim=True) if ones else x).sum_to_size(shape)  # shape


def _flat(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.flatten()


def _of_step(x: Tensor, grid: Grid) -> Tensor:
    return (x * grid.gamma).flatten()


def _run(part: Callable[..., Any], x: Tensor) -> Callable[..., Any]:
    """Return an elementwise part as it is called: compiled by itself on a card, unless the caller is compiled."""
    small = x.numel() < _SMALL
    if torch.compiler.is_compiling() or small or x.device.type != "cuda" or not has_triton():
        return part
    return _compiled(part)


@cache
def _compiled(part: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(part, dynamic=False, options={"deterministic": True})  # else it chooses sums by their speed
