"""Which fused functions take the place of the modules' quantizers and products, if any do."""

from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ofq.quant.kernels.attention import plain_attention
from ofq.quant.kernels.mixed.attention import mixed_attention
from ofq.quant.kernels.mixed.linear import mixed_linear
from ofq.quant.kernels.mixed.parts import mixed_weight, product_dtype
from ofq.quant.kernels.mixed.qkr import mixed_qkr
from ofq.quant.kernels.products import Weight, float_weight, integer_weight, quantized_linear
from ofq.quant.kernels.qkr import qkr_attention
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.lsq import LSQQuantizer

Mode = Literal["eager", "autocast", "compile"]


class Kernels(NamedTuple):
    """Fused functions that belong together.

    Attributes:
        weight: quantizes the weight of a product, for the others.
        linear: quantized input times quantized weight.
        attention: plain attention between its projections.
        qkr: attention with query-key reparameterization, between its input and its output projection.
    """

    weight: Callable[[Tensor, Quantizer | None, Quantizer], Weight]
    linear: Callable[..., Tensor] = quantized_linear
    attention: Callable[..., Tensor] = plain_attention
    qkr: Callable[..., Tensor] = qkr_attention


_FLOATS, _INTEGERS = Kernels(float_weight), Kernels(integer_weight)
_MIXED = Kernels(mixed_weight, mixed_linear, mixed_attention, mixed_qkr)


def choose(device: torch.device, dtype: torch.dtype, mode: Mode) -> Kernels | None:
    """Return the fused functions for products of a dtype on a device, or None where the modules compute part by part.

    Sums of products of codes may exceed what float16 holds, so there are none for it. On a CPU there are those that
    work in place, and in float32, if it multiplies 8-bit integers fast, multiply integer codes. Under autocast, in
    a compiled model, in bfloat16 and on a card there are those that say what is float32.
    """
    if dtype == torch.float16:
        return None
    if mode != "eager" or dtype == torch.bfloat16 or device.type != "cpu":
        return _MIXED
    return _INTEGERS if dtype == torch.float32 and _multiplies_integers() else _FLOATS


def fused(x: Tensor, *inputs: LSQQuantizer | None, weight: Quantizer | None = None) -> Kernels | None:
    """Return the fused functions that may take over here, or None.

    Args:
        x: input of the module.
        inputs: all quantizers that would round inside the fused function; a missing or an unusual one prevents it.
        weight: quantizer of the weight; a hook there prevents it too.
    """
    usual = all(quantizer is not None and quantizer.fusible for quantizer in inputs)
    if not usual or (weight is not None and weight.hook is not None):
        return None
    return choose(x.device, product_dtype(x), _mode(x.device))


def _mode(device: torch.device) -> Mode:
    if torch.compiler.is_compiling():
        return "compile"
    return "autocast" if torch.is_autocast_enabled(device.type) else "eager"


@cache
def _multiplies_integers() -> bool:
    """Return whether this processor has instructions for int8 dot products."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older versions
    names = ("avx512_vnni", "avx_vnni", "amx_int8")
    return torch.backends.mkldnn.is_available() and any(capabilities.get(name) for name in names)
