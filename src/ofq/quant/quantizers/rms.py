"""A step that is best for a Gaussian row: the control for the width of StatsQ's."""

from typing import Literal

import torch
from torch import Tensor

from ofq.quant.quantizers.base import Quantizer, Rounded, wide
from ofq.runs.registry import register

BEST = {2: 1.49353462, 3: 2.05106835, 4: 2.51393058, 5: 2.916151, 6: 3.277985, 7: 3.611097, 8: 3.922204}
"""By bits: half the span of the levels with the least mean squared error for a Gaussian of variance one, 2 to 4 bits as
QuEST has them."""


@register("rms")
class RMSQuantizer(Quantizer):
    """Weight quantizer whose step is another statistic of the row; nothing in it is learned.

    With the levels of StatsQ, and c of the bits from :data:`BEST`:

        step = 2*c*sqrt(mean(w^2))/(2^bits - 1),   out = step*(code + 1/2)
        dL/dw = g, with the mask g*1[|w| <= 2^(bits-1)*step];   no gradient flows through the step

    Args:
        bits: 2 to 8.
        gradient_mask: whether weights clipped by more than half a step get no gradient, as in QuEST.
        axis: 0 for a step for each output row or channel, None for one step.

    Raises:
        ValueError: ``bits`` out of range.

    Source: tests/golden/README.md section 13; QuEST (Panferov et al. 2025).
    """

    offset = 0.5

    def __init__(self, bits: int, *, gradient_mask: bool = False, axis: Literal[0] | None = 0) -> None:
        super().__init__(bits)
        self.gradient_mask = gradient_mask
        self.axis = axis
        self.rowwise = axis == 0

    @torch.no_grad()
    def step(self, w: Tensor) -> Tensor:
        """Return the step of each output row, shape (rows,), or of the whole weight, shape (1,)."""
        mean = wide(w).square().mean(self.shared_axes(w.ndim)).flatten()  # (rows,) or () to (1,)
        return mean.sqrt_().mul_(2 * BEST[self.bits] / (2**self.bits - 1))

    def rounded(self, x: Tensor) -> Rounded:
        """Fake-quantize a weight, and return its codes and steps too."""
        if self.gradient_mask:
            clip = self.step(x).view(self.step_shape(x.shape)) * 2.0 ** (self.bits - 1)
            x = torch.where(x.abs() <= clip, x, x.detach())
        return super().rounded(x)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"{super().extra_repr()}, gradient_mask={self.gradient_mask}{'' if self.axis == 0 else ', axis=None'}"
