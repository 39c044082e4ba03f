"""Fake quantization of vision transformers: quantizers, layers, conversion, calibration."""

from ofq.quant.blocks import block_weights
from ofq.quant.calibration import calibrate
from ofq.quant.config import QuantConfig
from ofq.quant.convert import quantize_model
from ofq.quant.quantizers import LSQQuantizer, StatsQuantizer

__all__ = [
    "LSQQuantizer",
    "QuantConfig",
    "StatsQuantizer",
    "block_weights",
    "calibrate",
    "quantize_model",
]
