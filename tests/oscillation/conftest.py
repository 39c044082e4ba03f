"""The small quantized models, as for the tests of quantization."""

from tests.quant.shaped import images, labels, make, switches

__all__ = ["images", "labels", "make", "switches"]
