"""The confidence mask of one StatsQ weight, as the paper defines it."""

import torch
from torch import Tensor

from ofq.quant.quantizers.statsq import StatsQuantizer
from ofq.remedies.cga import check_range, far_from_thresholds


@torch.no_grad()
def confidence_mask(w: Tensor, bits: int, boundary_range: float) -> Tensor:
    """Mark the weights of a StatsQ layer that are frozen (True) because no rounding threshold is near.

    Let u be the unrounded code of a weight, and c_min and c_max the smallest and the largest code in the layer. The
    threshold i + 1/2 lies between the codes i and i + 1:

        free  <=>  1/2 - r <= u - i <= 1/2 + r  for some integer i with c_min <= i < c_max

    So a threshold beyond the codes that occur does not count, and clamped weights are frozen.

    Args:
        w: weight (rows, columns), or of a convolution (O, I, h, w).
        bits: code width.
        boundary_range: r, in code steps.

    Returns:
        Boolean tensor of w's shape.

    Raises:
        ValueError: not 0 <= boundary_range < 0.5, w is no such weight of finite numbers, or ``bits`` out of range.

    Source: tests/golden/README.md section 6; OFQ paper section 3 (CGA).
    """
    check_range(boundary_range)
    if not (isinstance(w, Tensor) and w.ndim in (2, 4) and w.numel() and w.is_floating_point()):
        found = f"{w.dtype} {tuple(w.shape)}" if isinstance(w, Tensor) else type(w).__name__
        raise ValueError(f"w must be a matrix or a convolution's weight, of floating-point numbers, not {found}")
    if not w.isfinite().all():
        raise ValueError("w holds values that are not finite")
    return far_from_thresholds(StatsQuantizer(bits).position(w).unsqueeze(0), boundary_range).squeeze(0)  # (1, *shape)
