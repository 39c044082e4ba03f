"""Deployed models: integer codes, steps and biases in the place of latent weights, in the modules that computed them.

A quantized layer keeps its class and its arithmetic. Its ``weight`` becomes int8 codes, its weight quantizer a
:class:`StoredStep` that turns codes into values, and the "after" bias of its input goes into its own bias.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ofq.quant.modules.attention import Attention
from ofq.quant.modules.conv import QuantConv2d
from ofq.quant.modules.linear import QuantLinear
from ofq.quant.modules.qkr import QKRAttention
from ofq.quant.modules.window import QKRWindowAttention
from ofq.quant.quantizers.base import Quantizer, Rounded
from ofq.quant.quantizers.lsq import LSQQuantizer, MovedLSQQuantizer

Coded = QuantLinear | QuantConv2d | QKRAttention
"""Modules with a weight quantizer."""


class StoredStep(Quantizer):
    """Values of stored codes, step*(code + offset), with a step a row or one for all.

    Args:
        bits: code width.
        scale: the steps (rows,) or (1,).
        offset: 0 or 1/2.
    """

    scale: Tensor

    def __init__(self, bits: int, scale: Tensor, offset: float) -> None:
        super().__init__(bits)
        self.register_buffer("scale", scale)
        self.offset = offset

    def step(self, w: Tensor) -> Tensor:
        """Return the stored steps."""
        return self.scale

    def rounded(self, x: Tensor) -> Rounded:
        """Return the values of codes x, with x and the steps."""
        codes, step = x.to(self.scale.dtype), self.spread_step(x)
        values = torch.addcmul(step * self.offset, codes, step) if self.offset else codes * step
        return Rounded(values, codes, step, self.offset)

    def position(self, w: Tensor) -> Tensor:
        """Return the codes w: none lies between two."""
        return w.to(self.scale.dtype)

    def step_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """Return the shape in which the steps broadcast against codes."""
        return (self.scale.numel(), *(1,) * (len(shape) - 1))


class SettledSign(MovedLSQQuantizer):
    """The quantizer of an image whose sign was detected in training, and stays; it rounds as that one did."""

    def rounded(self, x: Tensor) -> Rounded:
        """Round x + before, without a look at its sign."""
        if self.before is not None:
            x = x + self.before.view(self.shape)  # the sizes of the last axes of x
        grid = self.grid_for(x.shape)
        step, shift = grid.step(self.scale), grid.shift(self.after)
        codes = grid.nearest(grid.place(x, step, None))
        return Rounded(codes * step if shift is None else torch.addcmul(shift, codes, step), codes, step, 0.0)

    @property
    def fusible(self) -> bool:
        """Whether a fused function may do the rounding itself."""
        return False


class _Composed(QKRAttention):
    """Attention whose product of query and key weights is stored, as codes (H*C, C)."""

    product: Tensor

    def latent_weight(self) -> Tensor:
        """Return the codes, which the weight quantizer takes."""
        return self.product


class _ComposedWindow(_Composed, QKRWindowAttention):
    """The same inside windows."""


def deployed(model: nn.Module) -> nn.Module:
    """Turn a quantized model into a deployed one, in place: latent weights become codes, and nothing learns any more.

    Norms, embeddings, tokens and tables of positions stay float, and so do the "before" and "after" biases of
    activations that are no input of a linear layer. Its outputs are those of the model in evaluation mode, to the bit
    where the bias of a layer's input was fused before: on the CPU, in layers with a step for each token.

    Args:
        model: quantized and calibrated.

    Returns:
        The same object, in evaluation mode.

    Raises:
        ValueError: the model is not quantized or not calibrated, or has a quantizer whose levels cannot be stored;
            names it. The model may have been changed.
    """
    coded = list(coded_modules(model))
    if not coded:
        raise ValueError("the model has no quantized weights; call quantize_model first")
    for name, module in model.named_modules():
        if type(module) is QuantConv2d:
            raise ValueError(f"{name} is a convolution, and convolutional networks cannot be exported yet")
        holds = any(isinstance(each, Quantizer) for each in module.children())
        if holds and not isinstance(module, Attention | QuantLinear | QuantConv2d):
            raise ValueError(f"{name} is a {type(module).__name__}, whose quantizers cannot be stored")
    with torch.no_grad():
        for name, module in coded:
            _store_codes(name, module)
        for module in model.modules():
            if isinstance(module, LSQQuantizer):
                _settle(module)
    return model.eval().requires_grad_(False)


def coded_modules(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the modules whose weights are quantized, with their names."""
    for name, module in model.named_modules():
        if isinstance(module, Coded) and module.weight_quantizer is not None:
            yield name, module


def entry_of(module: Coded) -> str:
    """Return what a deployed module calls its codes."""
    return "product" if isinstance(module, QKRAttention) else "weight"


def activation_quantizers(model: nn.Module) -> dict[str, LSQQuantizer]:
    """Return the quantizers of activations by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LSQQuantizer)}


def _store_codes(name: str, module: Any) -> None:
    composed = isinstance(module, QKRAttention)
    latent = _product(module) if composed else module.weight
    quantizer: Quantizer = module.weight_quantizer
    rounded = quantizer.rounded(latent.detach())
    scale = rounded.step.flatten()
    if scale.numel() not in (1, len(latent)):
        raise ValueError(f"{name} has {scale.numel()} steps for {len(latent)} rows; one a row, or one, can be stored")
    stored = StoredStep(quantizer.bits, scale.clone(), rounded.offset)
    codes = rounded.codes.to(torch.int8)
    if not latent.is_meta:
        _check(name, quantizer, rounded, stored.rounded(codes).values)
    if composed:
        module.__class__ = _ComposedWindow if isinstance(module, QKRWindowAttention) else _Composed
        del module.q, module.k
    else:
        del module.weight
    module.register_buffer(entry_of(module), codes)
    module.weight_quantizer = stored
    if isinstance(module, QuantLinear):
        _fold(module, rounded.values)


def _product(attention: QKRAttention) -> Tensor:
    """Return the composed query-key weight (H*C, C); of a model without numbers one without them."""
    weight = attention.q.weight
    if weight.is_meta:
        return weight.new_empty(attention.num_heads * weight.shape[1], weight.shape[1])
    return attention.latent_weight()


def _check(name: str, quantizer: Quantizer, rounded: Rounded, values: Tensor) -> None:
    """Raise ValueError unless stored codes give the values of a quantizer, but for the last bits."""
    half = 2.0 ** (quantizer.bits - 1)
    codes = rounded.codes
    if not bool(((codes >= -half) & (codes < half) & (codes == codes.round())).all()):
        raise ValueError(f"{name} has codes that are no integers of {quantizer.bits} bits with a sign")
    if not (rounded.step >= 0).all() or not torch.allclose(values, rounded.values, rtol=1e-6, atol=0):
        raise ValueError(f"{name} has levels that are not step*(code + offset) with a positive step")


def _fold(layer: QuantLinear, values: Tensor) -> None:
    """Move the "after" bias of a layer's input into its own bias: b + W*after, computed as the fused layer does."""
    quantizer = layer.input_quantizer
    if quantizer is None or quantizer.after is None:
        return
    after, bias = quantizer.after.detach(), layer.bias
    folded = torch.mv(values, after) if bias is None else torch.addmv(bias.detach(), values, after)  # (out,)
    layer.bias, quantizer.after = nn.Parameter(folded), None


def _settle(quantizer: LSQQuantizer) -> None:
    """Keep the steps that act, and the sign that training found."""
    quantizer.scale = nn.Parameter(quantizer.step(quantizer.scale))
    if quantizer.signed == "detect":
        quantizer.__class__ = SettledSign
        quantizer.signed = bool(quantizer.negative_seen) if not quantizer.negative_seen.is_meta else True
        quantizer.register_buffer("negative_seen", None)
