"""Fake quantization of vision transformers: quantizers, modules, conversion, calibration."""

from typing import TYPE_CHECKING

from ofq import lazy_names

if TYPE_CHECKING:
    from ofq.config.quant_config import QuantConfig
    from ofq.quant.calibration import calibrate
    from ofq.quant.convert import quantize_model
    from ofq.quant.quantizers.base import Quantizer
    from ofq.quant.quantizers.lsq import LSQQuantizer
    from ofq.quant.quantizers.statsq import StatsQuantizer
    from ofq.quant.weights import block_weights

__all__ = [
    "LSQQuantizer",
    "QuantConfig",
    "Quantizer",
    "StatsQuantizer",
    "block_weights",
    "calibrate",
    "quantize_model",
]

__getattr__ = lazy_names(
    {
        "QuantConfig": "ofq.config.quant_config",
        "calibrate": "ofq.quant.calibration",
        "quantize_model": "ofq.quant.convert",
        "Quantizer": "ofq.quant.quantizers.base",
        "LSQQuantizer": "ofq.quant.quantizers.lsq",
        "StatsQuantizer": "ofq.quant.quantizers.statsq",
        "block_weights": "ofq.quant.weights",
    }
)
