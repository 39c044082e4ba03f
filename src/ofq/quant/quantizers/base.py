"""What every quantizer can be asked for."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ofq.quant.rounding import Rounded


class Quantizer(nn.Module, ABC):
    """What the quantizers have in common: values and integer codes are asked for separately.

    Attributes:
        bits: code width.
        record: keep the codes of the last forward pass in ``last_codes``, at no second quantization.
        last_codes: integer codes of the last forward pass while ``record`` is set.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        if not 2 <= bits <= 8:
            raise ValueError(f"bits must be 2 to 8, not {bits}")
        self.bits = bits
        self.record = False
        self.last_codes: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantized ``x``, same shape."""
        return self.rounded(x).values

    @abstractmethod
    def rounded(self, x: Tensor) -> Rounded:
        """Fake-quantized ``x`` with its codes and steps."""

    @abstractmethod
    def step(self, w: Tensor) -> Tensor:
        """Distance between neighbouring levels, one for each index of the axis that keeps its own, in units of w."""

    @abstractmethod
    def position(self, w: Tensor) -> Tensor:
        """Unrounded code coordinate, clamped to the outermost codes; rounding thresholds lie at half-integers."""

    def codes(self, w: Tensor) -> Tensor:
        """Integer codes of ``w`` (int8, uint8 where unsigned, int16 where the sign is detected)."""
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
        """Shown by ``print(model)``."""
        return f"bits={self.bits}"
