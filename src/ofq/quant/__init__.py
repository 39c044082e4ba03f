"""Fake quantization of vision transformers: quantizers, layers, conversion, calibration."""

from ofq.quant.blocks import block_weights
from ofq.quant.calibration import calibrate
from ofq.quant.config import QuantConfig
from ofq.quant.convert import compile_loops, quantize_model
from ofq.quant.quantizers import LSQQuantizer, StatsQuantizer

__all__ = [
    "LSQQuantizer",
    "QuantConfig",
    "StatsQuantizer",
    "block_weights",
    "calibrate",
    "compile_loops",
    "quantize_model",
]
