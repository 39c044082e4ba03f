"""StatsQ: the step is a statistic of the weight."""

import torch
from torch import Tensor

from ofq.quant.quantizers.base import Quantizer
from ofq.quant.rounding import Rounded, round_statistical, statistical_position, statistical_step


class StatsQuantizer(Quantizer):
    """Weight quantizer whose step is a statistic of the row, 2*mean|w| / 2^(bits-1); nothing in it is learned.

    Codes lie in [-n, n-1] with n = 2^(bits-1), values at step*(code + 1/2): 2^bits symmetric levels, none at zero.
    The gradient is the identity for every element. See :func:`ofq.quant.rounding.round_statistical`.

    Args:
        bits: 2 to 8. Above 4 the clip at 2*mean|w| dominates the error.

    Raises:
        ValueError: ``bits`` out of range.

    Source: tests/golden/README.md section 2; OFQ paper equation 7.
    """

    def rounded(self, x: Tensor) -> Rounded:
        """Fake-quantize a weight, and return its codes and steps too."""
        values, codes, step = round_statistical(x, self.bits)
        self._keep(codes)
        return Rounded(values, codes, step, 0.5)

    @torch.no_grad()
    def step(self, w: Tensor) -> Tensor:
        """Return sigma/n of each output row, shape (rows,)."""
        return statistical_step(w, self.bits).flatten()  # (rows, 1) to (rows,)

    @torch.no_grad()
    def position(self, w: Tensor) -> Tensor:
        """Return clamp(w/step - 1/2, -n, n-1), same shape."""
        return statistical_position(w, statistical_step(w, self.bits), self.bits)
