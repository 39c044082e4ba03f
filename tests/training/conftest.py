"""The small quantized models, as for the tests of quantization, and finished runs."""

from tests.quant.conftest import images, labels, make, switches
from tests.training.trained import here, trained

__all__ = ["here", "images", "labels", "make", "switches", "trained"]
