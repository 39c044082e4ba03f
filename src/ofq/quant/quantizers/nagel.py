"""The learned step of Nagel et al.: another start, another mask, and no factor before its gradient."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ofq.quant.quantizers.base import Rounded, in_dtype, wide
from ofq.quant.quantizers.learned import LearnedStepQuantizer
from ofq.runs.registry import register

CANDIDATES = 100
"""How many ranges ``fit="mse"`` tries."""
_MARGIN = 0.5  # of the widest of them beyond the largest weight, whatever the size of the weights
_SMALLEST = 1e-8


@register("nagel")
class NagelQuantizer(LearnedStepQuantizer):
    """Weight quantizer with a learned step as in *Overcoming Oscillations in Quantization-Aware Training*.

    With s = max(scale, 1e-8), u = w/s and m = 1[low <= round(u) <= high], so half a step beyond the outermost levels:

        out = s*code,   code = clamp(round(u), low, high)
        dL/dw = g*m,   dL/dscale = sum(g*(code - u*m)) over what shares the step, 0 where scale < 1e-8

    A step below 1e-8 therefore never moves again. Codes lie in [-2^(bits-1), 2^(bits-1)-1]; in [0, 2^bits-1] if no
    weight of the whole tensor was negative at calibration, a flag in the state dict. Calibration sets the step to

        minmax   max(|min(w, 0)|, w, 1e-8)/high of what shares the step; so the smallest code does not occur at first
        mse      c*R/(100*high), R = max|w| + 1/2 of the whole tensor, with the c of 1 to 100 that gives what shares the
                 step the least squared error, the smallest of equals

    The half is absolute: of weights much smaller than it few c are of use.

    Args:
        bits: 2 to 8.
        axis: 0 for a step for each output channel, None for one step.
        learn_step: whether the steps learn; if not, they stay as calibrated.
        fit: what calibration sets the steps by.
        gradient_scale: whether dL/dscale is multiplied by 1/sqrt(high*M), M weights sharing the step, as in LSQ.

    Raises:
        ValueError: ``bits`` or ``fit`` is none of these.
        RuntimeError: on a forward pass before calibration.

    Source: tests/golden/README.md section 11 (a); Nagel et al. 2022, whose scripts set ``fit="mse"``.
    """

    floor = _SMALLEST
    any_negative: Tensor

    def __init__(
        self,
        bits: int,
        *,
        axis: int | None = 0,
        learn_step: bool = True,
        fit: Literal["mse", "minmax"] = "mse",
        gradient_scale: bool = False,
    ) -> None:
        super().__init__(bits, axis=axis, learn_step=learn_step)
        if fit not in ("mse", "minmax"):
            raise ValueError(f"fit must be 'mse' or 'minmax', not {fit!r}")
        self.fit = fit
        self.gradient_scale = gradient_scale
        self.register_buffer("any_negative", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize a weight."""
        return self.rounded(x).values

    def rounded(self, x: Tensor) -> Rounded:
        """Fake-quantize a weight, and return its codes and steps too."""
        if self.calibrating:
            self._observe(x)
        values, codes = _Nagel.apply(x, self.scale, self)
        self._keep(codes)
        return Rounded(values, codes, self.spread_step(x), self.offset)

    def step(self, w: Tensor) -> Tensor:
        """Return max(scale, 1e-8), the same vector for every ``w``."""
        del w
        self._require_scale()
        return self.scale.detach().clamp_min(self.floor)

    def levels(self) -> tuple[Tensor, Tensor]:
        """Return the smallest and the largest code, tensors without axes, so that nobody waits for the device."""
        low = self.any_negative * -(2.0 ** (self.bits - 1))
        return low, low + (2.0**self.bits - 1)

    def gamma(self, shape: torch.Size) -> float | Tensor:
        """Return what the gradient of a step is multiplied by."""
        return super().gamma(shape) if self.gradient_scale else 1.0

    def statistic(self, x: Tensor) -> Tensor:
        """Return the steps at which training starts, a vector."""
        high = self.levels()[1]
        if self.fit == "minmax":
            shared = self.shared_axes(x.ndim)
            return torch.maximum(-x.amin(shared), x.amax(shared).clamp_min(_SMALLEST)).flatten() / high
        widest = (x.abs().amax() + _MARGIN) / (CANDIDATES * high)
        best = least = torch.empty(0)
        for candidate in range(1, CANDIDATES + 1):
            step = candidate * widest
            codes = torch.clamp((x / step).round_(), *self.levels())
            error = (x - step * codes).square_().sum(self.shared_axes(x.ndim)).flatten()  # (steps,)
            if candidate == 1:
                best, least = step.expand_as(error), error
            better = error < least
            best, least = torch.where(better, step, best), torch.where(better, error, least)
        return best

    def first_step(self, statistic: Tensor) -> Tensor:
        """Return the statistic: it is the step."""
        return statistic

    def _observe(self, x: Tensor) -> None:
        self.any_negative.fill_(x.detach().amin() < 0)
        super()._observe(x)

    def _code_dtype(self) -> torch.dtype:
        return torch.int8 if self.bits < 8 else torch.int16  # unsigned ones of 8 bits would not fit

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"{super().extra_repr()}, axis={self.axis}, fit={self.fit}"


class _Nagel(torch.autograd.Function):
    """The formulas of :class:`NagelQuantizer`; of tensors in the weight's size it keeps none but codes of a hook."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, scale: Tensor, quantizer: NagelQuantizer) -> tuple[Tensor, Tensor]:
        step = quantizer.spread_step(w)
        u = wide(w) / step
        # The codes are those of rounding first: the outermost ones are whole numbers. The mask is not that of LSQ.
        codes = quantizer.round_codes(u, step)
        ctx.save_for_backward(w, scale, codes if quantizer.hook is not None else None)
        ctx.quantizer = quantizer
        ctx.mark_non_differentiable(codes)
        ctx.set_materialize_grads(False)
        return in_dtype(codes * step, w.dtype), codes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if grads[0] is None:
            return None, None, None
        g, quantizer = wide(grads[0]), ctx.quantizer
        w, scale, codes = ctx.saved_tensors
        low, high = quantizer.levels()
        shape = quantizer.step_shape(w.shape)
        u = wide(w) / scale.clamp_min(quantizer.floor).view(shape)  # step_shape
        nearest = u.round()
        # Written out: in newer versions of torch the gradient of a clamp is 0 on its ends, where whole numbers lie.
        inside = (nearest >= low) & (nearest <= high)
        passed = g if codes is None else quantizer.pass_gradient(g, u, codes)
        pull = g * ((torch.clamp(nearest, low, high) if codes is None else codes) - u * inside)
        grad_scale = pull.sum_to_size(shape).flatten() * quantizer.gamma(w.shape)  # (steps,)
        return (passed * inside).to(w.dtype), torch.where(scale < quantizer.floor, 0.0, grad_scale), None
