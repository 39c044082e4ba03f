"""Fake quantization of vision transformers and convolutional networks: quantizers, modules, conversion, calibration."""

from typing import TYPE_CHECKING

from ofq import lazy_names

if TYPE_CHECKING:
    from ofq.config.quant_config import QuantConfig as QuantConfig
    from ofq.quant.calibration import calibrate as calibrate
    from ofq.quant.convert import quantize_model as quantize_model
    from ofq.quant.quantizers.base import Quantizer as Quantizer
    from ofq.quant.quantizers.lsq import LSQQuantizer as LSQQuantizer
    from ofq.quant.quantizers.statsq import StatsQuantizer as StatsQuantizer
    from ofq.quant.weights import block_weights as block_weights

__getattr__, __all__ = lazy_names(__file__)
