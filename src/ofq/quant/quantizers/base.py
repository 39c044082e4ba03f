"""The base class of all quantizers, what they return, and the precision in which they compute."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from ofq.quant.hook import Hook

NARROW = (torch.float16, torch.bfloat16)
"""What autocast makes of numbers; too few bits for steps, and for deciding which code is the nearest."""


class Rounded(NamedTuple):
    """A fake-quantized tensor and what it is made of: values = step*(codes + offset), plus any ``after`` bias.

    Attributes:
        values: fake-quantized, with gradient.
        codes: integers in the shape of the values, float32 where these have fewer bits, else in their dtype.
        step: broadcasts against the codes; no gradient.
        offset: 0 or 1/2.
    """

    values: Tensor
    codes: Tensor
    step: Tensor
    offset: float


class Quantizer(nn.Module, ABC):
    """Base class of the quantizers, with levels step*(code + offset) and codes from -2^(bits-1) to 2^(bits-1) - 1.

    A new one needs :meth:`step` only. It then rounds to the nearest level straight through: the gradient of a value is
    that of its weight, and none flows to the step. With other gradients it has a :meth:`rounded` of its own.

    All computes in float32 at least, whatever autocast does, and a quantizer's own tensors stay float32 when the model
    is cast to fewer bits: a code of a bfloat16 step would be another one. Values come back in the dtype of the input.

    Args:
        bits: code width, 2 to 8.

    Attributes:
        axis: the axis of a weight that has a step for each index, a tuple of neighbouring ones, or None for one step.
        offset: 0 for levels at whole steps, 1/2 for levels halfway between them.
        rowwise: whether the step of an output row is a function of that row alone, so that matrices may be stacked.
        record: whether to keep the codes of the last forward pass in ``last_codes``; needs no second quantization.
        last_codes: integer codes of the last forward pass while ``record`` is set.
        hook: a remedy that rounds, or passes gradients, in its own way here.

    Raises:
        ValueError: ``bits`` out of range.
    """

    axis: int | tuple[int, ...] | None = 0
    offset = 0.0
    rowwise = False

    def __init__(self, bits: int) -> None:
        super().__init__()
        if bits not in range(2, 9):
            raise ValueError(f"bits must be 2 to 8 and whole, not {bits!r}")
        self.bits = bits
        self.record = False
        self.last_codes: Tensor | None = None
        self.hook: Hook | None = None

    @abstractmethod
    def step(self, w: Tensor) -> Tensor:
        """Return the distance between neighbouring levels in units of ``w``, a vector over the axis with own steps."""

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize ``x``; the shape stays."""
        return self.rounded(x).values

    def rounded(self, x: Tensor) -> Rounded:
        """Fake-quantize ``x``, and return its codes and steps too."""
        passed = x
        with torch.no_grad(), without_autocast(x.device):
            w = wide(x)
            step = self.spread_step(w)
            u = w / step.clamp_min(torch.finfo(step.dtype).tiny) - self.offset
            codes = self.round_codes(u, step)
            values = (step * (codes + self.offset)).to(x.dtype)
        if self.hook is not None and x.requires_grad and torch.is_grad_enabled():
            passed = x.clone()
            passed.register_hook(lambda g: self.pass_gradient(g, u, codes))
        self._keep(codes)
        return Rounded(values + (passed - passed.detach()), codes, step, self.offset)  # the bits of `values`

    def levels(self) -> tuple[float, float] | tuple[Tensor, Tensor]:
        """Return the smallest and the largest code."""
        half = 2.0 ** (self.bits - 1)
        return -half, half - 1

    @torch.no_grad()
    def position(self, w: Tensor) -> Tensor:
        """Return the unrounded code u = w/step - offset of each element, clamped to the outermost codes; same shape.

        Rounding thresholds lie at half-integers.
        """
        w = wide(w)
        return self.placed(w, self.spread_step(w))

    def placed(self, w: Tensor, step: Tensor) -> Tensor:
        """Return :meth:`position` for given steps, which broadcast against ``w``."""
        u = (w / step.clamp_min(torch.finfo(step.dtype).tiny)).sub_(self.offset)  # a row of zeros has no 0/0
        return torch.clamp(u, *self.levels())

    @torch.no_grad()
    def codes(self, w: Tensor) -> Tensor:
        """Return the integer codes of ``w`` (int8, uint8 where unsigned, int16 where the sign is detected).

        Raises:
            ValueError: ``w`` is not finite; not looked at on a device, which would have to be waited for.
        """
        if w.device.type == "cpu" and not w.isfinite().all():
            raise ValueError("there are no codes of values that are not finite")
        codes = self.position(w).round_() if self.hook is None else self.rounded(w).codes
        return codes.to(self._code_dtype())

    def round_codes(self, u: Tensor, step: Tensor) -> Tensor:
        """Return round(clamp(u, smallest code, largest code)), ties to even, or the codes that the hook chooses."""
        asked = None if self.hook is None else self.hook.round_with(self, u, step)
        return torch.clamp(u, *self.levels()).round_() if asked is None else asked

    def pass_gradient(self, g: Tensor, u: Tensor, codes: Tensor) -> Tensor:
        """Return ``g``, or what the hook makes of it: the gradient of what was rounded, before any mask."""
        g = g.clone()  # the hook may change it in place
        scaled = None if self.hook is None else self.hook.scale_gradient(self, g, u, codes)
        return g if scaled is None else scaled

    def own_axes(self, dimensions: int) -> list[int]:
        """Return the axes that have a step for each index, counted from 0, of a tensor with so many axes.

        Raises:
            ValueError: such a tensor does not have the axis.
        """
        axes = () if self.axis is None else (self.axis,) if isinstance(self.axis, int) else self.axis
        if any(not -dimensions <= axis < dimensions for axis in axes):
            raise ValueError(f"a tensor with {dimensions} axes has no axis {self.axis} for steps of its own")
        return [axis % dimensions for axis in axes]

    def shared_axes(self, dimensions: int) -> list[int]:
        """Return the other axes, along which a step is shared."""
        own = self.own_axes(dimensions)
        return [axis for axis in range(dimensions) if axis not in own]

    def step_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """Return the shape in which the steps broadcast against a tensor: (rows, 1) for axis 0 of a matrix."""
        axes = self.own_axes(len(shape))
        if not axes:
            return (1,)
        return (*shape[axes[0] : axes[-1] + 1], *(1,) * (len(shape) - 1 - axes[-1]))

    def spread_step(self, w: Tensor) -> Tensor:
        """Return the steps in the shape in which they broadcast against ``w``.

        Raises:
            ValueError: there are not as many as the axis has indices.
        """
        step, spread = self.step(w), self.step_shape(w.shape)
        if step.numel() != math.prod(spread):
            raise ValueError(
                f"{type(self).__name__} gives {step.numel()} steps for {tuple(w.shape)}, which has {math.prod(spread)} "
                f"along axis {self.axis}"
            )
        return step.view(spread)  # step_shape

    def recorded(self, w: Tensor | None) -> None:
        """Keep the codes of each forward pass from now on, before the first those of ``w``; or no longer (None).

        There are some from the start, because a compiled pass that found none would be compiled once more for the next.
        """
        self.record = w is not None
        self.last_codes = None if w is None else self.position(w).round_().to(self._code_dtype())

    def _code_dtype(self) -> torch.dtype:
        return torch.int8

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the quantizer's tensors, as ``module.to()`` does, but leave float32 where it would become less."""

        def moved(tensor: Tensor) -> Tensor:
            found = fn(tensor)
            return tensor.to(found.device) if found.dtype in NARROW else found

        return super()._apply(moved, recurse)

    @torch.no_grad()
    def _keep(self, codes: Tensor) -> None:
        if self.record:
            last = self.last_codes
            if last is None or last.shape != codes.shape or last.device != codes.device:
                self.last_codes = last = torch.empty_like(codes, dtype=self._code_dtype())
            last.copy_(codes)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"bits={self.bits}"


def wide(x: Tensor) -> Tensor:
    """Return x in float32 if its dtype has fewer bits, else x itself."""
    return x.float() if x.dtype in NARROW else x


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which autocast leaves the dtypes of products alone."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
