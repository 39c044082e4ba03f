"""LSQ, whose step is learned, and LSQ with move biases, for the inputs of a layer."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from ofq.quant.quantizers.base import Quantizer
from ofq.quant.rounding import STEP_FLOOR, QuantGrid, Rounded, round_on

_Unset: Any = UninitializedParameter  # its stub does not say that it is a Parameter

SIGN_THRESHOLD = -1e-5
"""An image with a smaller value than this is signed."""


class LSQQuantizer(Quantizer):
    """Quantizer with learned steps; see :func:`round_learned` for the formulas.

    Codes lie in [-2^(bits-1), 2^(bits-1)-1], or in [0, 2^bits-1] if unsigned. The steps are the vector ``scale``. It
    does not exist until :func:`ofq.quant.calibrate` makes it or a calibrated state dict is loaded. Calibration sets it
    to kappa*mean|x|/sqrt(largest code), kappa = 4 for an unsigned quantizer with an axis, else 2.

    Args:
        bits: 2 to 8.
        signed: whether codes have a sign. ``"detect"``: unsigned until a value below -1e-5 was seen, signed from then
            on, in training and evaluation; the flag is a buffer of the state dict.
        axis: the axis that has a step for each index (0 output row, 1 image channel, -1 channel, -2 token), a tuple of
            neighbouring axes with a step for each pair of indices, or None for one step for the whole tensor.
        grid: ``"integer"``: values at step*code. ``"midrise"``: values at step*(code + 1/2) and an initial step of
            2*mean|w|/2^(bits-1), both as in StatsQ.
        learned: whether the steps learn; if not, they stay as calibrated.
        clipped_gradient: of elements beyond the outermost codes: ``"zero"`` as in LSQ, or ``"identity"`` as in StatsQ.

    Raises:
        ValueError: ``bits``, ``signed`` or ``grid`` is none of these, axes are not neighbours in order, or a mid-rise
            grid is not signed.
        RuntimeError: on a forward pass before calibration.

    Source: tests/golden/README.md section 3; LSQ paper (Esser et al. 2020).
    """

    negative_seen: Tensor

    def __init__(
        self,
        bits: int,
        *,
        signed: bool | Literal["detect"] = True,
        axis: int | tuple[int, ...] | None = 0,
        grid: Literal["integer", "midrise"] = "integer",
        learned: bool = True,
        clipped_gradient: Literal["zero", "identity"] = "zero",
    ) -> None:
        super().__init__(bits)
        axes = () if axis is None else (axis,) if isinstance(axis, int) else axis
        if any(right - left != 1 for left, right in pairwise(axes)):
            raise ValueError(f"axis must name neighbouring axes in order, not {axis}")
        if signed not in (True, False, "detect"):
            raise ValueError(f"signed must be True, False or 'detect', not {signed!r}")
        if grid not in ("integer", "midrise"):
            raise ValueError(f"grid must be 'integer' or 'midrise', not {grid!r}")
        if grid == "midrise" and signed is not True:
            raise ValueError("grid 'midrise' needs signed=True")
        self.signed = signed
        self.axis = axis
        self.grid = grid
        self.learned = learned
        self.clipped_gradient = clipped_gradient
        self.shape: tuple[int, ...] = ()  # of the move biases, which only a MovedLSQQuantizer has
        self.before: nn.Parameter | None = None
        self.after: nn.Parameter | None = None
        self._axes = axes
        self._offset = 0.5 if grid == "midrise" else 0.0
        self._means: list[Tensor] | None = None  # of |x|, one per calibration batch; None: not calibrating
        self.scale: nn.Parameter = _Unset(requires_grad=learned)
        self.register_buffer("negative_seen", torch.zeros(()) if signed == "detect" else None)

    def rounded(self, x: Tensor) -> Rounded:
        """Fake-quantize ``x``, and return its codes and steps too."""
        before = self.before
        if self.signed == "detect":
            if before is not None:
                # The sign is that of what is rounded. before: (shape), the sizes of the last axes of x
                x, before = x + before.view(self.shape), None
            self._detect_sign(x)
        if self._means is not None:
            self._observe(x if before is None else x + before.view(self.shape))  # before: (shape)
        grid = self.grid_for(x.shape)
        values, codes = round_on(grid, x, self.scale, before, self.after)
        self._keep(codes)
        return Rounded(values, codes, grid.step(self.scale.detach()), grid.offset)

    @property
    def fusible(self) -> bool:
        """Whether a fused function may do the rounding itself, on the grid of :meth:`grid_for`."""
        return self.signed != "detect" and self._means is None and not self.record

    def grid_for(self, shape: torch.Size) -> QuantGrid:
        """Return the grid for a tensor of the given shape.

        Raises:
            RuntimeError: there is no step yet.
            ValueError: the axis of the steps has another size than at calibration.
        """
        self._require_scale()
        low, high = self.levels()
        return QuantGrid(
            low,
            high,
            self._step_shape(shape),
            gradient_factor(high, shape.numel() / self.scale.numel()),
            self._offset,
            self.shape,
            passes_clipped=self.clipped_gradient == "identity",
        )

    def step(self, w: Tensor) -> Tensor:
        """Return max(scale, 1e-5), the same vector for every ``w``."""
        del w
        self._require_scale()
        return self.scale.detach().clamp_min(STEP_FLOOR)

    @torch.no_grad()
    def position(self, w: Tensor) -> Tensor:
        """Return clamp(w/step - offset, smallest code, largest code), same shape; offset 1/2 on the mid-rise grid."""
        step = self.step(w)
        low, high = self.levels()
        u = (w / step.view(self._step_shape(w.shape))).sub_(self._offset)  # step: (rows, 1) for axis 0
        return torch.clamp(u, low, high)  # type: ignore[arg-type]

    def levels(self) -> tuple[float, float] | tuple[Tensor, Tensor]:
        """Return the smallest and the largest code.

        They are tensors without axes where the sign is detected, so that nobody waits for the device.
        """
        half = 2.0 ** (self.bits - 1)
        if self.signed == "detect":
            low = self.negative_seen * -half
            return low, low + (2 * half - 1)
        return (-half, half - 1) if self.signed else (0.0, 2 * half - 1)

    @property
    def calibrated(self) -> bool:
        """Whether ``scale`` exists."""
        return type(self.scale) is not _Unset

    def begin_calibration(self) -> None:
        """Let every forward pass from here on count into the step.

        Raises:
            RuntimeError: the quantizer is calibrated already.
        """
        if self.calibrated:
            raise RuntimeError("calibrate() was called on a calibrated quantizer: its learned steps would be lost")
        self._means = []

    def end_calibration(self, *, keep: bool) -> bool:
        """End the calibration, drop the step unless ``keep``, and return whether a forward pass was seen."""
        seen = bool(self._means)
        self._means = None
        if not keep and self.calibrated:
            self.scale = _Unset(requires_grad=self.learned, device=self.scale.device, dtype=self.scale.dtype)
        return seen

    @torch.no_grad()
    def _detect_sign(self, x: Tensor) -> None:
        # Tensor arithmetic: a Python comparison would make the device wait.
        torch.maximum(self.negative_seen, (x.amin() < SIGN_THRESHOLD).to(self.negative_seen), out=self.negative_seen)

    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        """Set the step from every calibration batch seen so far, this one included."""
        assert self._means is not None
        kept = {axis % x.ndim for axis in self._axes}
        shared = [axis for axis in range(x.ndim) if axis not in kept]
        self._means.append(x.abs().mean(shared) if kept else x.abs().mean())
        mean = torch.stack(self._means).mean(0).flatten()  # (batches, *kept) to (steps,)
        if self.grid == "midrise":
            step = mean * 2.0 ** (2 - self.bits)
        else:
            kappa = 4 if self.signed is False and self._axes else 2
            step = kappa * mean / torch.as_tensor(self.levels()[1], device=x.device, dtype=x.dtype).sqrt()
        if not self.calibrated:
            self.scale.materialize(step.shape, device=x.device, dtype=x.dtype)  # type: ignore[attr-defined]
        self.scale.copy_(step)

    def _step_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """Return the shape in which the vector of steps broadcasts against a tensor.

        Raises:
            ValueError: the axis has another size than at calibration.
        """
        if not self._axes:
            return (1,)
        first, last = self._axes[0] % len(shape), self._axes[-1] % len(shape)
        kept = shape[first : last + 1]
        if kept.numel() != self.scale.numel():
            raise ValueError(
                f"this quantizer was calibrated for {self.scale.numel()} steps along axis {self.axis}; "
                f"the input {tuple(shape)} has {kept.numel()} there"
            )
        return (*kept, *(1,) * (len(shape) - 1 - last))

    def _require_scale(self) -> None:
        if not self.calibrated:
            raise RuntimeError(
                "a quantizer has no step yet: call ofq.quant.calibrate(model, batches) first, "
                "or load the state dict of a calibrated model"
            )

    def _code_dtype(self) -> torch.dtype:
        return torch.int16 if self.signed == "detect" else torch.int8 if self.signed else torch.uint8

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        scale = self.scale
        if not self.calibrated:
            self._parameters["scale"] = None  # left out: there is nothing to save, and torch would refuse to try
        super()._save_to_state_dict(destination, prefix, keep_vars)
        self._parameters["scale"] = scale

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        saved = state_dict.get(f"{prefix}scale")
        arguments = (state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        if self.calibrated:
            super()._load_from_state_dict(*arguments)
        elif saved is not None:
            self.scale.materialize(saved.shape, dtype=saved.dtype)  # type: ignore[attr-defined]
            super()._load_from_state_dict(*arguments)
        else:  # neither side is calibrated: nothing is missing
            scale = self.scale
            self._parameters["scale"] = None
            super()._load_from_state_dict(*arguments)
            self._parameters["scale"] = scale

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


def gradient_factor(high: float | Tensor, elements: float) -> float | Tensor:
    """Return gamma = 1/sqrt(high*M), by which the gradient of a learned step is multiplied.

    Args:
        high: largest code.
        elements: M, the number of elements that share the step.

    Source: tests/golden/README.md section 3; LSQ paper (Esser et al. 2020) section 2.2.
    """
    return (high * elements) ** -0.5


def round_learned(
    x: Tensor,
    scale: Tensor,
    low: float | Tensor,
    high: float | Tensor,
    *,
    step_shape: tuple[int, ...],
    offset: float = 0.0,
    before: Tensor | None = None,
    after: Tensor | None = None,
    move_shape: tuple[int, ...] = (),
) -> tuple[Tensor, Tensor]:
    """Fake-quantize with a learned step (LSQ), with the move biases of an activation quantizer fused in.

    With s = max(scale, 1e-5), u = (x + before)/s - offset and code = round(clamp(u, low, high)):

        out = (code + offset)*s + after
        dL/dx      = g * 1[low <= u <= high]                    both ends included
        dL/dscale  = gamma * sum(g*((code + offset) - (u + offset)*1[low <= u <= high])),   gamma = 1/sqrt(high*M)
        dL/dbefore = sum of dL/dx,   dL/dafter = sum of g       over the axes that they are broadcast along

    M is the number of elements that share one step. The backward pass keeps x and no other tensor of its size.

    Args:
        x: what is rounded.
        scale: learned steps, a vector.
        low: smallest code: 0, a negative power of two, or a tensor without axes.
        high: largest code: one less than a power of two, or a tensor without axes.
        step_shape: shape of the steps; broadcasts against ``x``.
        offset: 0 for levels at whole steps, 1/2 for levels halfway between them (not with ``after``).
        before: added to ``x`` first; a vector.
        after: added to the result; a vector, which may be shorter than ``before``: zeros follow.
        move_shape: shape of ``before`` and ``after``: the sizes of the last axes of ``x``.

    Returns:
        The fake-quantized tensor and its codes (same dtype, no gradient).

    Source: tests/golden/README.md sections 3 and 4; LSQ paper (Esser et al. 2020) equations 1-3.
    """
    factor = gradient_factor(high, x.numel() / scale.numel())
    return round_on(QuantGrid(low, high, step_shape, factor, offset, move_shape), x, scale, before, after)
