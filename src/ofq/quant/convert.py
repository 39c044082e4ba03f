"""Turn a model of timm into a quantized one."""

from torch import nn

from ofq.config.quant_config import QuantConfig
from ofq.quant.families.base import Family
from ofq.quant.quantizers.base import Quantizer
from ofq.runs.registry import registered


def quantize_model(model: nn.Module, config: QuantConfig) -> nn.Module:
    """Quantize a timm model in place.

    Its layers are found by their type. Weights and biases stay the same parameters under timm's names. With query-key
    reparameterization ``attn.qkv.*`` becomes ``attn.q.weight``, ``attn.k.weight`` and ``attn.v.*``, with the values of
    its rows; the biases of q and k are dropped, as in the paper's formula. Norms, position embeddings and tokens are
    left alone.

    Args:
        model: of a family in ``ofq.quant.families``, such as timm's ``VisionTransformer``.
        config: what to quantize to.

    Returns:
        The same object. Call :func:`ofq.quant.calibrate` before the first forward pass.

    Raises:
        ValueError: the model is quantized already, is of no family, or uses an option that is not supported (named in
            the message). The model is then unchanged.

    Source: tests/golden/README.md sections 4, 5 and 9.
    """
    if any(isinstance(module, Quantizer) for module in model.modules()):
        raise ValueError("the model is quantized already")
    family = family_of(model)
    family.check(model)
    family.convert(model, config)
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
    name = type(model).__name__
    raise ValueError(f"quantize_model supports {supported}; {name} has no attention that it can replace")


def families() -> list[Family]:
    """Return every family of models."""
    return [entry.load()() for entry in registered("family").values()]
