"""The two straight-through roundings that every quantizer is made of.

Each is one :class:`torch.autograd.Function` with few kernels, because a small model spends its time starting
kernels and a large one moving memory. Both round to nearest, ties to even.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

STEP_FLOOR = 1e-5
"""Learned steps act as at least this; the floor is straight-through, so a step below it still learns."""


@dataclass(frozen=True)
class QuantGrid:
    """Levels of an LSQ quantizer, and the shapes of its steps and move biases beside a tensor.

    Attributes:
        low: smallest code: 0, a negative power of two, or a tensor without axes.
        high: largest code: one less than a power of two, or a tensor without axes.
        step_shape: shape of the steps; broadcasts against the tensor.
        gradient_factor: what the gradient of a step is multiplied by.
        offset: 0 for levels at whole steps, 1/2 for levels halfway between them.
        move_shape: shape of the move biases: the sizes of the tensor's last axes.
        passes_clipped: :func:`round_on` gives x the gradient g everywhere, also beyond the outermost codes.
    """

    low: float | Tensor
    high: float | Tensor
    step_shape: tuple[int, ...]
    gradient_factor: float | Tensor
    offset: float = 0.0
    move_shape: tuple[int, ...] = ()
    passes_clipped: bool = False

    def step(self, scale: Tensor) -> Tensor:
        """Return max(scale, 1e-5) in ``step_shape``; ``scale`` is a vector."""
        return scale.clamp_min(STEP_FLOOR).view(self.step_shape)  # step_shape

    def place(self, x: Tensor, step: Tensor, before: Tensor | None) -> Tensor:
        """Return u = (x + before)/step - offset, a new tensor of x's shape; ``before`` is a vector."""
        # As before/step + x/step: only the small tensor is divided on its own, the large one is passed over once.
        # before: (move_shape)
        u = x / step if before is None else torch.addcdiv(before.view(self.move_shape) / step, x, step)
        return u.sub_(self.offset) if self.offset else u

    def place_and_codes(
        self, x: Tensor, step: Tensor, before: Tensor | None, *, integers: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return u and its :meth:`codes`, which are int8 with ``integers``."""
        u = self.place(x, step, before)
        codes = self.codes(u)
        return u, codes.to(torch.int8) if integers else codes

    def place_and_values(
        self, x: Tensor, step: Tensor, before: Tensor | None, after: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return u and its :meth:`values`."""
        u, codes = self.place_and_codes(x, step, before)
        return u, self._scaled(codes, step, after)

    def rounded(self, x: Tensor, step: Tensor, before: Tensor | None) -> Tensor:
        """Return code*step, a new tensor, for a grid without offset; u is not kept."""
        u = self.place(x, step, before)
        return self._clamp(u, out=u).round_().mul_(step)

    def codes(self, u: Tensor) -> Tensor:
        """Return round(clamp(u, low, high)), a new tensor of the same dtype."""
        return self._clamp(u).round_()

    def values(self, u: Tensor, step: Tensor, after: Tensor | None) -> Tensor:
        """Return code*step + after, a new tensor, for a grid without offset."""
        return self._scaled(self.codes(u), step, after)

    def _scaled(self, codes: Tensor, step: Tensor, after: Tensor | None) -> Tensor:
        shift = self.shift(after)
        return codes.mul_(step) if shift is None else torch.addcmul(shift, codes, step, out=codes)

    def shift(self, after: Tensor | None) -> Tensor | None:
        """Return the vector ``after`` in ``move_shape``, with zeros for the rows that it lacks."""
        if after is None:
            return None
        missing = math.prod(self.move_shape) - after.numel()
        return (torch.constant_pad_nd(after, (0, missing)) if missing else after).view(self.move_shape)  # move_shape

    def gradients(self, g: Tensor, u: Tensor) -> tuple[Tensor, Tensor | None]:
        """Turn ``g`` into dL/dx in place, and return dL/dscale and dL/dbefore.

        The formulas stand in :func:`ofq.quant.quantizers.lsq.round_learned`.

        Args:
            g: gradient of the rounded tensor.
            u: what :meth:`place` returned, same shape.

        Returns:
            dL/dscale, a vector, and dL/dbefore, a vector, or None on a grid without move biases.
        """
        # g*(code - u*mask), with u*mask taken from the gradient that is masked already.
        pull = self.codes(u).mul_(g)
        if self.offset:
            pull.add_(g, alpha=self.offset)
        self._mask(g, u)
        pull.addcmul_(g, u, value=-1)
        if self.offset:
            pull.sub_(g, alpha=self.offset)
        grad_scale = pull.sum_to_size(self.step_shape).mul_(self.gradient_factor).flatten()  # (steps,)
        return grad_scale, self.move_gradient(g) if self.move_shape else None

    def move_gradient(self, g: Tensor) -> Tensor:
        """Sum ``g`` over the axes that a move bias is broadcast along; the result is a vector."""
        return g.sum_to_size(self.move_shape).flatten()  # move_shape to a vector

    def _clamp(self, u: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.clamp(u, self.low, self.high, out=out)  # type: ignore[arg-type]  # both numbers or both tensors

    def _mask(self, g: Tensor, u: Tensor) -> None:
        """Zero g where u lies outside [low, high]; on the ends g stays.

        The mask of torch.clamp is not used: whether it includes the ends depends on torch's version.
        """
        low, high = self.low, self.high
        if isinstance(low, Tensor) or isinstance(high, Tensor):
            g.masked_fill_((u < low) | (u > high), 0.0)
            return
        # hardtanh's backward does mask and product in one vectorised kernel, on the CPU an order of magnitude faster
        # than a boolean mask.
        below, above = self.open_interval(u.dtype)
        torch.ops.aten.hardtanh_backward.grad_input(g, u, below, above, grad_input=g)

    def open_interval(self, dtype: torch.dtype) -> tuple[float, float]:
        """Return the floats next below ``low`` and next above ``high``; these must be numbers.

        Exact for low = -2^k and high = 2^k - 1. The float next below 0 is subnormal, and a processor may flush it to
        zero: for low = 0 the largest negative normal float is returned.
        """
        assert isinstance(self.low, float) and isinstance(self.high, float)
        info = torch.finfo(dtype)
        below = self.low * (1 + info.eps) if self.low else -info.tiny
        return below, self.high + info.eps * (self.high + 1) / 2


class Rounded(NamedTuple):
    """A fake-quantized tensor and what it is made of: values = step*(codes + offset), plus any ``after`` bias.

    Attributes:
        values: fake-quantized, with gradient.
        codes: integers in the dtype and shape of the values.
        step: broadcasts against the codes; no gradient.
        offset: 0 or 1/2.
    """

    values: Tensor
    codes: Tensor
    step: Tensor
    offset: float


def round_on(
    grid: QuantGrid, x: Tensor, scale: Tensor, before: Tensor | None, after: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Fake-quantize ``x`` on a grid; formulas in :func:`ofq.quant.quantizers.lsq.round_learned`."""
    out, codes = _RoundLearned.apply(x, scale, before, after, grid)
    return out, codes


def round_statistical(w: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Fake-quantize a weight with a step that is a statistic of its row (StatsQ).

    With n = 2^(bits-1) and sigma = 2*mean|w| of the row:

        code = round(n*clamp(w/sigma, -1, 1-1e-6) - 1/2),   out = sigma*(code + 1/2)/n,   dL/dw = g for every element

    No gradient flows through sigma, and nothing is kept for the backward pass. A row of zeros stays zero.

    Args:
        w: weight (rows, columns), or 3-D; each index of the last axis but one has its own sigma.
        bits: at least 2.

    Returns:
        The fake-quantized weight, its codes (same shape and dtype, no gradient) and its steps sigma/n (no gradient),
        (rows, 1) for a matrix.

    Source: tests/golden/README.md section 2; OFQ paper equation 7.
    """
    out, codes, step = _RoundStatistical.apply(w, bits)
    return out, codes, step


def statistical_step(w: Tensor, bits: int) -> Tensor:
    """Return StatsQ's step sigma/n = 2*mean|w|/2^(bits-1); axes that share it keep size one, (rows, 1) for a matrix."""
    shared = [axis for axis in range(w.ndim) if axis != w.ndim - 2]
    return w.abs().mean(shared, keepdim=True).mul_(2.0 ** (2 - bits))


def statistical_position(w: Tensor, step: Tensor, bits: int) -> Tensor:
    """Return StatsQ's unrounded code coordinate u = clamp(w/step - 1/2, -n, n-1) with n = 2^(bits-1).

    The codes are the same as with w/sigma clamped to [-1, 1-1e-6]: beyond the outermost codes both round to these. A
    row of zeros has u = -1/2 instead of 0/0.
    """
    n = 2.0 ** (bits - 1)
    return (w / step.clamp_min(torch.finfo(step.dtype).tiny)).sub_(0.5).clamp_(-n, n - 1)


class _RoundStatistical(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
        step = statistical_step(w, bits)
        codes = statistical_position(w, step, bits).round_()
        ctx.mark_non_differentiable(codes, step)
        ctx.set_materialize_grads(False)
        return torch.addcmul(step * 0.5, codes, step), codes, step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        return grads[0], None


class _RoundLearned(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, before: Tensor | None, after: Tensor | None, grid: QuantGrid
    ) -> tuple[Tensor, Tensor]:
        step = grid.step(scale)
        _, codes = grid.place_and_codes(x, step, before)
        shift = step * grid.offset if grid.offset else grid.shift(after)
        out = codes * step if shift is None else torch.addcmul(shift, codes, step)

        # x and not u: a weight or an image is in memory anyway.
        ctx.save_for_backward(x, step, before)
        ctx.grid = grid
        ctx.after_size = 0 if after is None else after.numel()
        ctx.mark_non_differentiable(codes)
        ctx.set_materialize_grads(False)
        return out, codes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        g = grads[0]
        if g is None:
            return (None,) * 5
        needs_x, _, _, needs_after = ctx.needs_input_grad[:4]
        x, step, before = ctx.saved_tensors
        grid: QuantGrid = ctx.grid
        u = grid.place(x, step, before)
        grad_after = grid.move_gradient(g)[: ctx.after_size] if needs_after else None
        grad_x = g.clone(memory_format=torch.contiguous_format)
        grad_scale, grad_before = grid.gradients(grad_x, u)
        if grid.passes_clipped:
            grad_x = g
        return grad_x if needs_x else None, grad_scale, grad_before if before is not None else None, grad_after, None
