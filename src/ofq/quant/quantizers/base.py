"""The base class of all quantizers."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ofq.quant.rounding import Rounded


class Quantizer(nn.Module, ABC):
    """Base class of the quantizers, with one method for values and another for integer codes.

    Attributes:
        bits: code width, 2 to 8.
        record: whether to keep the codes of the last forward pass in ``last_codes``; needs no second quantization.
        last_codes: integer codes of the last forward pass while ``record`` is set.

    Raises:
        ValueError: ``bits`` out of range.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        if not 2 <= bits <= 8:
            raise ValueError(f"bits must be 2 to 8, not {bits}")
        self.bits = bits
        self.record = False
        self.last_codes: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize ``x``; the shape stays."""
        return self.rounded(x).values

    @abstractmethod
    def rounded(self, x: Tensor) -> Rounded:
        """Fake-quantize ``x``, and return its codes and steps too."""

    @abstractmethod
    def step(self, w: Tensor) -> Tensor:
        """Return the distance between neighbouring levels in units of ``w``, a vector over the axis with own steps."""

    @abstractmethod
    def position(self, w: Tensor) -> Tensor:
        """Return the unrounded code coordinate of each element of ``w``, clamped to the outermost codes.

        Rounding thresholds lie at half-integers.
        """

    def codes(self, w: Tensor) -> Tensor:
        """Return the integer codes of ``w`` (int8, uint8 where unsigned, int16 where the sign is detected)."""
        with torch.no_grad():
            return self.position(w).round_().to(self._code_dtype())

    def _code_dtype(self) -> torch.dtype:
        return torch.int8

    @torch.no_grad()
    def _keep(self, codes: Tensor) -> None:
        if not self.record:
            return
        if self.last_codes is None or self.last_codes.shape != codes.shape:
            self.last_codes = torch.empty_like(codes, dtype=self._code_dtype())
        self.last_codes.copy_(codes)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"bits={self.bits}"
