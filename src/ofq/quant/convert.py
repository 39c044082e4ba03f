"""Turn a model of timm into a quantized one."""

from functools import partial
from typing import Any

import torch
from torch import nn

from ofq.config.quant_config import QuantConfig
from ofq.quant.families.base import Family, full_precision_layers
from ofq.quant.quantizers.base import Quantizer
from ofq.runs.registry import registered


def quantize_model(model: nn.Module, config: QuantConfig) -> nn.Module:
    """Quantize a timm model in place.

    Its layers are found by their type. Weights and biases stay the same parameters under timm's names. With query-key
    reparameterization ``attn.qkv.*`` becomes ``attn.q.weight``, ``attn.k.weight`` and ``attn.v.*``, with the values of
    its rows; the biases of q and k are dropped, as in the paper's formula. Norms, position embeddings and tokens are
    left alone. Any other layer with a weight is quantized, or the model is refused; one that takes a layer's place
    later, as by timm's ``reset_classifier``, is refused by the next forward pass.

    Args:
        model: of a family in ``ofq.quant.families``, such as timm's ``VisionTransformer``.
        config: what to quantize to.

    Returns:
        The same object. Call :func:`ofq.quant.calibrate` before the first forward pass.

    Raises:
        ValueError: the model is quantized already, is of no family, uses an option that is not supported, or has a
            layer that would stay in full precision (named in the message).
        UserError: the weight quantizer is a class of the user's that cannot be made.
            The model is unchanged, whatever is raised.

    Source: tests/golden/README.md sections 4, 5 and 9.
    """
    for value, kind in ((model, nn.Module), (config, QuantConfig)):
        if not isinstance(value, kind):
            raise ValueError(f"quantize_model takes a model and a QuantConfig, not a {type(value).__name__}")
    if any(isinstance(module, Quantizer) for module in model.modules()):
        raise ValueError("the model is quantized already")
    family = family_of(model)
    family.check(model)
    made = family.convert(model, config)
    if left := list(full_precision_layers(model, made)):
        share = _share(model, [layer for _, layer in left])
        raise ValueError(f"{left[0][0]} would stay in full precision ({share}); supported are {family.supported}")
    for (parent, name), layer in made.items():
        setattr(parent, name, layer)
    # timm's forward_features does not enter the model as such, but its first child.
    for entered in (model, next(model.children())):
        entered.register_forward_pre_hook(partial(_refuse_full_precision, model))
    return model


def family_of(model: nn.Module) -> Family:
    """Return the family that a model, quantized or not, belongs to.

    Raises:
        ValueError: it belongs to none.
    """
    for family in families():
        if family.fits(model):
            return family
    supported = "; ".join(family.supported for family in families())
    share = _share(model, [layer for _, layer in full_precision_layers(model)])
    raise ValueError(f"quantize_model supports {supported}; {type(model).__name__} is none of these ({share})")


def families() -> list[Family]:
    """Return every family of models."""
    return [entry.load()() for entry in registered("family").values()]


def _share(model: nn.Module, layers: list[nn.Module]) -> str:
    """Say how many layers of a model in full precision these are, and which share of its weights they have."""
    held = sum(sum(p.numel() for p in layer.parameters(recurse=False) if p.ndim > 1) for layer in layers)
    share = 100 * held / max(sum(parameter.numel() for parameter in model.parameters()), 1)
    return f"{len(layers)} layer{'s' * (len(layers) != 1)} with {share:.1f} % of the model's weights"


def _refuse_full_precision(model: nn.Module, entered: nn.Module, inputs: Any) -> None:
    """Raise ValueError if a layer of a quantized model was replaced by one in full precision."""
    if not torch.compiler.is_compiling() and (left := next(full_precision_layers(model), None)):
        raise ValueError(
            f"{left[0]} would compute in full precision: it is not one of the layers that quantize_model made; change "
            "the model first, then quantize it"
        )
