"""What the fused functions share: rounding on a grid in fewer passes over memory, and the tensors of a quantizer."""

import torch
from torch import Tensor

from ofq.quant.quantizers.lsq import Grid, LSQQuantizer


def learned(quantizer: LSQQuantizer) -> tuple[Tensor | None, ...]:
    """Return the vectors that an LSQ quantizer learns: ``scale``, ``before`` and ``after``."""
    return quantizer.scale, quantizer.before, quantizer.after


def place_and_codes(
    grid: Grid, x: Tensor, step: Tensor, before: Tensor | None, *, integers: bool = False
) -> tuple[Tensor, Tensor]:
    """Return u and the codes, both of x's shape; the codes are int8 with ``integers``."""
    u = grid.place(x, step, before)
    codes = grid.nearest(u)
    return u, codes.to(torch.int8) if integers else codes


def values(grid: Grid, u: Tensor, step: Tensor, after: Tensor | None) -> Tensor:
    """Return code*step + after, a new tensor of u's shape, for a grid without offset."""
    codes, shift = grid.nearest(u), grid.shift(after)
    return codes.mul_(step) if shift is None else torch.addcmul(shift, codes, step, out=codes)


def rounded(grid: Grid, x: Tensor, step: Tensor) -> Tensor:
    """Return code*step, a new tensor of x's shape, for a grid without offset and move biases; u is not kept."""
    u = grid.place(x, step, None)
    return torch.clamp(u, grid.low, grid.high, out=u).round_().mul_(step)  # type: ignore[arg-type]
