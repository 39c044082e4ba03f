"""LSQ, whose step is learned, and LSQ with move biases, for the inputs of a layer."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ofq.quant.quantizers.base import Rounded, wide
from ofq.quant.quantizers.learned import LearnedStepQuantizer
from ofq.runs.registry import register

SIGN_THRESHOLD = -1e-5
"""An image with a smaller value than this is signed."""
STEP_FLOOR = 1e-5
"""Learned steps act as at least this; the floor is straight-through, so a step below it still learns."""


@register("lsq")
@register("lsq-midrise", grid="midrise")
class LSQQuantizer(LearnedStepQuantizer):
    """Quantizer with learned steps, the vector ``scale``.

    With s = max(scale, 1e-5), u = (x + before)/s - offset and code = round(clamp(u, low, high)):

        out = (code + offset)*s + after
        dL/dx      = g * 1[low <= u <= high]                    both ends included
        dL/dscale  = gamma * sum(g*((code + offset) - (u + offset)*1[low <= u <= high])),   gamma = 1/sqrt(high*M)
        dL/dbefore = sum of dL/dx,   dL/dafter = sum of g       over the axes that they are broadcast along

    M elements, of the whole batch, share one step; ``before`` and ``after`` are those of :class:`MovedLSQQuantizer`.
    Codes lie in [-2^(bits-1), 2^(bits-1)-1], or in [0, 2^bits-1] if unsigned. Calibration sets the step to
    start*kappa*mean|x|/sqrt(high), kappa = 4 for an unsigned quantizer with an axis, else 2.

    Args:
        bits: 2 to 8.
        signed: whether codes have a sign. ``"detect"``: unsigned until a value below -1e-5 was seen, signed from then
            on, in training and evaluation; the flag is a buffer of the state dict.
        axis: the axis that has a step for each index (0 output row, 1 image channel, -1 channel, -2 token), a tuple of
            neighbouring axes with a step for each pair of indices, or None for one step for the whole tensor.
        grid: ``"integer"``: offset 0. ``"midrise"``: offset 1/2 and an initial step of 2*mean|w|/2^(bits-1), both as
            in StatsQ.
        learn_step: whether the steps learn; if not, they stay as calibrated.
        clipped_gradient: of elements beyond the outermost codes: ``"zero"`` as above, or ``"identity"`` as in StatsQ.
        start: the step after calibration, in units of the usual one.

    Raises:
        ValueError: ``bits``, ``signed``, ``grid``, ``clipped_gradient`` or ``start`` is none of these, axes are not
            neighbours in order, or a mid-rise grid is not signed.
        RuntimeError: on a forward pass before calibration.

    Source: tests/golden/README.md sections 3 and 4; LSQ paper (Esser et al. 2020) equations 1-3.
    """

    floor = STEP_FLOOR
    negative_seen: Tensor

    def __init__(  # noqa: PLR0913  # the settings that params.yaml may give it
        self,
        bits: int,
        *,
        signed: bool | Literal["detect"] = True,
        axis: int | tuple[int, ...] | None = 0,
        grid: Literal["integer", "midrise"] = "integer",
        learn_step: bool = True,
        clipped_gradient: Literal["zero", "identity"] = "zero",
        start: float = 1.0,
    ) -> None:
        super().__init__(bits, axis=axis, learn_step=learn_step)
        if isinstance(axis, tuple) and any(right - left != 1 for left, right in pairwise(axis)):
            raise ValueError(f"axis must name neighbouring axes in order, not {axis}")
        if signed not in (True, False, "detect"):
            raise ValueError(f"signed must be True, False or 'detect', not {signed!r}")
        if grid not in ("integer", "midrise"):
            raise ValueError(f"grid must be 'integer' or 'midrise', not {grid!r}")
        if clipped_gradient not in ("zero", "identity"):
            raise ValueError(f"clipped_gradient must be 'zero' or 'identity', not {clipped_gradient!r}")
        if grid == "midrise" and signed is not True:
            raise ValueError("grid 'midrise' needs signed=True")
        if not 0 < start < math.inf:
            raise ValueError(f"start must be positive, not {start}")
        self.signed = signed
        self.grid = grid
        self.clipped_gradient = clipped_gradient
        self.start = start
        self.offset = 0.5 if grid == "midrise" else 0.0
        self.shape: tuple[int, ...] = ()  # of the move biases, which only a MovedLSQQuantizer has
        self.before: nn.Parameter | None = None
        self.after: nn.Parameter | None = None
        self.register_buffer("negative_seen", torch.zeros(()) if signed == "detect" else None)

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize ``x``; the shape stays."""
        return self.rounded(x).values

    def rounded(self, x: Tensor) -> Rounded:
        """Fake-quantize ``x``, and return its codes and steps too."""
        before, wanted = self.before, x.dtype
        if self.shape and x.shape[-len(self.shape) :] != self.shape:
            raise ValueError(f"move biases of shape {self.shape} do not fit an input of shape {tuple(x.shape)}")
        if self.signed == "detect":
            if before is not None:
                # The sign is that of what is rounded. before: (shape), the sizes of the last axes of x
                x, before = x + before.view(self.shape), None
            # Tensor arithmetic: a Python comparison would make the device wait.
            negative = (x.detach().amin() < SIGN_THRESHOLD).to(self.negative_seen)
            torch.maximum(self.negative_seen, negative, out=self.negative_seen)
        if self.calibrating:
            self._observe(x if before is None else x + before.view(self.shape))  # before: (shape)
        grid = self.grid_for(x.shape)
        values, codes = _LSQ.apply(x, self.scale, before, self.after, grid)
        self._keep(codes)
        return Rounded(values.to(wanted), codes, grid.step(self.scale.detach()), self.offset)

    @property
    def fusible(self) -> bool:
        """Whether a fused function may do the rounding itself, on the grid of :meth:`grid_for`."""
        usual = self.grid == "integer" and self.clipped_gradient == "zero"
        return usual and self.signed != "detect" and not self.calibrating and not self.record and self.hook is None

    def grid_for(self, shape: torch.Size) -> "Grid":
        """Return the grid for a tensor of the given shape.

        Raises:
            RuntimeError: there is no step yet.
            ValueError: the axis of the steps has another size than at calibration.
        """
        step_shape = self.step_shape(shape)
        low, high = self.levels()
        return Grid(self, low, high, step_shape, self.gamma(shape))

    def step(self, w: Tensor) -> Tensor:
        """Return max(scale, 1e-5), the same vector for every ``w``."""
        del w
        self._require_scale()
        return self.scale.detach().clamp_min(STEP_FLOOR)

    def levels(self) -> tuple[float, float] | tuple[Tensor, Tensor]:
        """Return the smallest and the largest code.

        They are tensors without axes where the sign is detected, so that nobody waits for the device.
        """
        if self.signed is True:
            return super().levels()
        largest = 2.0**self.bits - 1
        if self.signed is False:
            return 0.0, largest
        low = self.negative_seen * -(2.0 ** (self.bits - 1))
        return low, low + largest

    def statistic(self, x: Tensor) -> Tensor:
        """Return mean|x| over the elements that share a step."""
        return x.abs().mean() if self.axis is None else x.abs().mean(self.shared_axes(x.ndim))

    def first_step(self, statistic: Tensor) -> Tensor:
        """Return start times kappa*mean|x|/sqrt(high), or StatsQ's step 2*mean|x|/2^(bits-1) on its grid."""
        if self.grid == "midrise":
            return statistic * (self.start * 2.0 ** (2 - self.bits))
        kappa = self.start * (4 if self.signed is False and self.axis is not None else 2)
        largest = torch.as_tensor(self.levels()[1], device=statistic.device, dtype=statistic.dtype)
        return kappa * statistic / largest.sqrt()

    def _code_dtype(self) -> torch.dtype:
        return torch.int16 if self.signed == "detect" else torch.int8 if self.signed else torch.uint8

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"{super().extra_repr()}, signed={self.signed}, axis={self.axis}, grid={self.grid}"


class MovedLSQQuantizer(LSQQuantizer):
    """LSQ between two learned biases: Q(x + before) + after, both zero at first.

    The second does not undo the first. Both are fused into the rounding. They are stored as vectors, so that a rule
    such as "no weight decay for vectors" finds them.

    Args:
        bits: 2 to 8.
        shape: shape in which ``before`` is added: the sizes of the last axes of the input.
        signed: as in :class:`LSQQuantizer`.
        axis: as in :class:`LSQQuantizer`.
        after_rows: number of leading rows of ``shape`` that have an ``after``; nothing is added to the others. None
            for all, 0 for no ``after`` at all.

    Raises:
        ValueError: as in :class:`LSQQuantizer`.
            On a forward pass: the input does not end in the shape of ``before``.
        RuntimeError: on a forward pass before calibration.

    Source: tests/golden/README.md section 4.
    """

    def __init__(
        self,
        bits: int,
        shape: tuple[int, ...],
        *,
        signed: bool | Literal["detect"] = True,
        axis: int | tuple[int, ...] | None = -2,
        after_rows: int | None = None,
    ) -> None:
        super().__init__(bits, signed=signed, axis=axis)
        rows = shape[0] if after_rows is None else after_rows
        self.shape = shape
        self.before = nn.Parameter(torch.zeros(math.prod(shape)))
        self.after = nn.Parameter(torch.zeros(rows * math.prod(shape[1:]))) if rows else None


@dataclass(frozen=True)
class Grid:
    """What an LSQ quantizer is beside a tensor of one shape.

    Attributes:
        quantizer: has the offset, which is 0 where there is an ``after``, and the shape of the move biases.
        low: smallest code: 0, a negative power of two, or a tensor without axes.
        high: largest code: one less than a power of two, or a tensor without axes.
        step_shape: shape of the steps; broadcasts against the tensor.
        gamma: what the gradient of a step is multiplied by.
    """

    quantizer: LSQQuantizer
    low: float | Tensor
    high: float | Tensor
    step_shape: tuple[int, ...]
    gamma: float | Tensor

    def step(self, scale: Tensor) -> Tensor:
        """Return max(scale, 1e-5) in ``step_shape``; ``scale`` is a vector."""
        return scale.clamp_min(STEP_FLOOR).view(self.step_shape)  # step_shape

    def place(self, x: Tensor, step: Tensor, before: Tensor | None) -> Tensor:
        """Return u = (x + before)/step - offset, a new tensor of x's shape; ``before`` is a vector."""
        # As before/step + x/step: only the small tensor is divided on its own, the large one is passed over once.
        # before: (quantizer.shape)
        u = x / step if before is None else torch.addcdiv(before.view(self.quantizer.shape) / step, x, step)
        return u.sub_(self.quantizer.offset) if self.quantizer.offset else u

    def nearest(self, u: Tensor) -> Tensor:
        """Return round(clamp(u, low, high)), ties to even, a new tensor of the same dtype."""
        return torch.clamp(u, self.low, self.high).round_()  # type: ignore[arg-type]  # both numbers or both tensors

    def shift(self, after: Tensor | None) -> Tensor | None:
        """Return the vector ``after`` in the shape of the move biases, with zeros for the rows that it lacks."""
        if after is None:
            return None
        shape = self.quantizer.shape
        missing = math.prod(shape) - after.numel()
        return (torch.constant_pad_nd(after, (0, missing)) if missing else after).view(shape)  # quantizer.shape

    def gradients(self, g: Tensor, u: Tensor, codes: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Turn ``g`` into dL/dx in place, and return dL/dscale and dL/dbefore, formulas in :class:`LSQQuantizer`.

        Args:
            g: gradient of the rounded tensor.
            u: what :meth:`place` returned, same shape.
            codes: if they are not the nearest ones, same shape.

        Returns:
            dL/dscale, a vector, and dL/dbefore, a vector, or None on a grid without move biases.
        """
        # g*(code - u*mask), with u*mask taken from the gradient that is masked already.
        pull = self.nearest(u).mul_(g) if codes is None else codes * g
        offset = self.quantizer.offset
        if offset:
            pull.add_(g, alpha=offset)
        self.mask(g, u)
        pull.addcmul_(g, u, value=-1)
        if offset:
            pull.sub_(g, alpha=offset)
        grad_scale = pull.sum_to_size(self.step_shape).mul_(self.gamma).flatten()  # (steps,)
        return grad_scale, self.move_gradient(g) if self.quantizer.shape else None

    def move_gradient(self, g: Tensor) -> Tensor:
        """Sum ``g`` over the axes that a move bias is broadcast along; the result is a vector."""
        return g.sum_to_size(self.quantizer.shape).flatten()  # quantizer.shape to a vector

    def mask(self, g: Tensor, u: Tensor) -> Tensor:
        """Zero g in place where u lies outside [low, high]; on the ends g stays.

        The mask of torch.clamp is not used: whether it includes the ends depends on torch's version.
        """
        low, high = self.low, self.high
        if isinstance(low, Tensor) or isinstance(high, Tensor):
            return g.masked_fill_((u < low) | (u > high), 0.0)
        # hardtanh's backward does mask and product in one vectorised kernel, on the CPU an order of magnitude faster
        # than a boolean mask. It leaves its ends out, so they are the floats next below low = -2^k or 0 and next above
        # high = 2^k - 1. The one below 0 is subnormal, and a processor may flush it to zero: there it is the largest
        # negative normal float.
        info = torch.finfo(u.dtype)
        below = low * (1 + info.eps) if low else -info.tiny
        torch.ops.aten.hardtanh_backward.grad_input(g, u, below, high + info.eps * (high + 1) / 2, grad_input=g)
        return g


class _LSQ(torch.autograd.Function):
    """The formulas of :class:`LSQQuantizer`; x and no other tensor of its size is kept: a weight is there anyway."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, before: Tensor | None, after: Tensor | None, grid: Grid
    ) -> tuple[Tensor, Tensor]:
        step = grid.step(scale)
        u = grid.place(wide(x), step, before)
        codes = torch.clamp(u, grid.low, grid.high).round_()  # type: ignore[arg-type]  # to nearest, ties to even
        quantizer = grid.quantizer
        hooked = quantizer.hook is not None
        if hooked:
            codes = quantizer.round_codes(u, step)
        shift = step * quantizer.offset if quantizer.offset else grid.shift(after)
        out = codes * step if shift is None else torch.addcmul(shift, codes, step)
        ctx.save_for_backward(x, step, before, codes if hooked else None)
        ctx.grid = grid
        ctx.after_size = 0 if after is None else after.numel()
        ctx.mark_non_differentiable(codes)
        ctx.set_materialize_grads(False)
        return out.to(x.dtype), codes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if grads[0] is None:
            return (None,) * 5
        g = wide(grads[0])
        needs_x, _, _, needs_after = ctx.needs_input_grad[:4]
        x, step, before, codes = ctx.saved_tensors
        grid: Grid = ctx.grid
        u = grid.place(wide(x), step, before)
        grad_after = grid.move_gradient(g)[: ctx.after_size] if needs_after else None
        grad_x = g.clone(memory_format=torch.contiguous_format)
        grad_scale, grad_before = grid.gradients(grad_x, u, codes)
        passed = g if codes is None else grid.quantizer.pass_gradient(g, u, codes)
        if grid.quantizer.clipped_gradient == "identity":
            grad_x = passed
        elif codes is not None:
            grad_x = grid.mask(passed, u)
        if before is None:
            grad_before = None
        return grad_x.to(x.dtype) if needs_x else None, grad_scale, grad_before, grad_after, None
