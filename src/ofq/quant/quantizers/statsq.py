"""StatsQ: the step is a statistic of the weight."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ofq.quant.quantizers.base import Quantizer, Rounded, wide
from ofq.runs.registry import register


@register("statsq")
class StatsQuantizer(Quantizer):
    """Weight quantizer whose step is a statistic of the row; nothing in it is learned.

    With n = 2^(bits-1), codes in [-n, n-1] and sigma = factor*mean|w| of the row:

        step = sigma/n,   code = round(n*clamp(w/sigma, -1, 1-1e-6) - 1/2),   out = step*(code + 1/2)
        dL/dw = g for every element; no gradient flows through the step

    So there are 2^bits symmetric levels, none at zero. A row of zeros stays zero.

    Args:
        bits: 2 to 8. Above 4 the clip at 2*mean|w| dominates the error.
        factor: clip in units of mean|w|; 2 is the paper's. At the same bits the step is proportional to it.
        axis: 0 for a step for each output row, which of a convolution (O, I, h, w) is an output channel, and of a 3-D
            weight an index of the middle axis, as in the released code; None for one step.

    Raises:
        ValueError: ``bits`` or ``factor`` out of range.

    Source: tests/golden/README.md section 2; OFQ paper equation 7.
    """

    offset = 0.5

    def __init__(self, bits: int, factor: float = 2.0, *, axis: Literal[0] | None = 0) -> None:
        super().__init__(bits)
        if not 0 < factor < math.inf:
            raise ValueError(f"factor must be positive, not {factor}")
        self.factor = factor
        self.axis = axis
        self.rowwise = axis == 0

    def own_axes(self, dimensions: int) -> list[int]:
        """Return the axis that has a step for each index."""
        return [1] if dimensions == 3 and self.axis == 0 else super().own_axes(dimensions)

    @torch.no_grad()
    def step(self, w: Tensor) -> Tensor:
        """Return sigma/n of each output row, shape (rows,), or of the whole weight, shape (1,)."""
        return _steps(w, self).flatten()  # (rows, 1) to (rows,)

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize a weight."""
        return self.rounded(x).values

    def rounded(self, x: Tensor) -> Rounded:
        """Fake-quantize a weight, and return its codes and steps too."""
        values, codes, step = _StatsQ.apply(x, self)
        self._keep(codes)
        return Rounded(values, codes, step, self.offset)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"{super().extra_repr()}, factor={self.factor:g}{'' if self.axis == 0 else ', axis=None'}"


class _StatsQ(torch.autograd.Function):
    """The formulas of :class:`StatsQuantizer`; nothing is kept for the backward pass unless a hook wants it."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, quantizer: StatsQuantizer) -> tuple[Tensor, Tensor, Tensor]:
        n = 2.0 ** (quantizer.bits - 1)
        wanted, w = w.dtype, wide(w)
        step = _steps(w, quantizer)  # (rows, 1)
        # Clamped as codes, not as w/sigma: beyond the outermost ones both round to these. A row of zeros has u = -1/2.
        u = (w / step.clamp_min(torch.finfo(step.dtype).tiny)).sub_(0.5)
        codes = torch.clamp(u, -n, n - 1).round_()  # to nearest, ties to even
        ctx.hooked = quantizer if quantizer.hook is not None else None
        if ctx.hooked:
            codes = quantizer.round_codes(u, step)
            ctx.save_for_backward(u, codes)
        ctx.mark_non_differentiable(codes, step)
        ctx.set_materialize_grads(False)
        return torch.addcmul(step * 0.5, codes, step).to(wanted), codes, step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        g = grads[0]
        if g is not None and ctx.hooked:
            g = ctx.hooked.pass_gradient(g, *ctx.saved_tensors)
        return g, None


def _steps(w: Tensor, quantizer: StatsQuantizer) -> Tensor:
    """Return sigma/n = factor*mean|w|/2^(bits-1); axes that share it keep size one, (rows, 1) for a matrix."""
    return (
        wide(w)
        .abs()
        .mean(quantizer.shared_axes(w.ndim), keepdim=True)
        .mul_(quantizer.factor * 2.0 ** (1 - quantizer.bits))
    )
