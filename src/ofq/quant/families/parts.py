"""What families have in common: timm's parts, their checks, their quantized counterparts and their low-bit weights."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

from ofq.config.quant_config import FLOAT, QuantConfig
from ofq.quant.families.base import BlockWeight, Replacements, weight_quantizer
from ofq.quant.modules.attention import AttentionQuantizers, QuantAttention
from ofq.quant.modules.linear import QuantLinear, check_plain
from ofq.quant.modules.patches import QuantPatches, check_patches
from ofq.quant.modules.qkr import Projections, QKRAttention, QKRQuantizers
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.lsq import LSQQuantizer, MovedLSQQuantizer

Quantized = QuantAttention | QKRAttention
"""What takes the place of an attention."""
Layers = Iterable[tuple[str, Any]]
"""Layers by their groups, in the order of their use."""


def holds(model: nn.Module, attention: type[nn.Module], quantized: tuple[type[nn.Module], ...]) -> bool:
    """Return whether a model has an attention that can be replaced, or what takes its place; by type, not subclass."""
    return any(
        type(module) in quantized or (type(module) is attention and module is not model) for module in model.modules()
    )


def modules_by_path(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module with what stands before the names of its children: ``"blocks.0."``, and ``""`` first."""
    return ((f"{name}." if name else "", module) for name, module in model.named_modules())


def check_linears(inside: str, module: nn.Module, *parts: str) -> None:
    """Raise ValueError unless the named children of a module are plain linear layers."""
    for part in parts:
        check_plain(inside + part, getattr(module, part), nn.Linear)


def check_mlp(inside: str, mlp: Any) -> None:
    """Raise ValueError unless timm's ``Mlp`` can be converted."""
    if isinstance(mlp.fc1, nn.Conv2d):
        raise ValueError("an Mlp with use_conv is not supported")
    check_linears(inside, mlp, "fc1", "fc2")


def check_embedding(inside: str, embedding: Any) -> None:
    """Raise ValueError unless timm's ``PatchEmbed`` can be converted."""
    if embedding.img_size is None or embedding.dynamic_img_pad:
        raise ValueError("PatchEmbed without a fixed img_size is not supported: move biases have its size")
    check_patches(f"{inside}proj", embedding.proj)


def convert_mlp(mlp: Any, config: QuantConfig, make: Callable[..., QuantLinear]) -> Replacements:
    """Make the layers of timm's ``Mlp`` by ``make(layer, config, signed=...)``, which :func:`linear` may be."""
    rectified = _is_rectifying(mlp.act) and isinstance(mlp.norm, nn.Identity)
    signs = {"fc1": True, "fc2": not rectified}
    return {(mlp, name): make(getattr(mlp, name), config, signed=signed) for name, signed in signs.items()}


def convert_embedding(embedding: Any, config: QuantConfig) -> Replacements:
    """Make the convolution of timm's ``PatchEmbed``."""
    image = None
    if config.input_bits != FLOAT:
        image = MovedLSQQuantizer(config.edge_bits, embedding.img_size, signed="detect", axis=1)
    weight = LSQQuantizer(config.edge_bits, axis=0)
    made = QuantPatches.from_conv(embedding.proj, weight_quantizer=weight, input_quantizer=image)
    return {(embedding, "proj"): made}


def convert_attentions(
    model: nn.Module, kind: type[nn.Module], config: QuantConfig, make: Callable[[Any, QuantConfig], nn.Module]
) -> Replacements:
    """Make what takes the place of every attention of a type; one that stands in several places is made once."""
    made: Replacements = {}
    converted: dict[nn.Module, nn.Module] = {}
    for parent in model.modules():
        for name, child in parent._modules.items():
            if type(child) is kind:
                if child not in converted:
                    converted[child] = make(child, config).train(child.training)
                made[parent, name] = converted[child]
    return made


def linear(
    source: nn.Linear,
    config: QuantConfig,
    *,
    signed: bool = True,
    axis: int | tuple[int, ...] = -2,
    kind: type[QuantLinear] = QuantLinear,
) -> QuantLinear:
    """Make a linear layer of a block, whose input has a step for each index of ``axis``, for each token by default."""
    quantizer = None
    if config.input_bits != FLOAT:
        quantizer = MovedLSQQuantizer(config.input_bits, (source.in_features,), signed=signed, axis=axis)
    return kind.from_linear(source, weight_quantizer=weight_quantizer(config), input_quantizer=quantizer)


def head(source: nn.Linear, config: QuantConfig) -> QuantLinear:
    """Make a classifier."""
    bits, quantizer = config.edge_bits, None
    if config.input_bits != FLOAT:
        quantizer = MovedLSQQuantizer(bits, (source.in_features,), axis=None)
    return QuantLinear.from_linear(source, weight_quantizer=LSQQuantizer(bits, axis=0), input_quantizer=quantizer)


def attention(source: Any, config: QuantConfig, kind: type[QuantAttention] = QuantAttention) -> QuantAttention:
    """Make an attention from one of timm's, with the parts ``qkv`` and ``proj``."""
    bits, width = config.input_bits, source.qkv.out_features // 3
    # Only the query has an "after" bias: softmax cancels that of a key, and AdamW would turn the rounding noise in its
    # gradient into a random walk.
    after_rows = 2 if config.dead_biases else 1
    quantizers = AttentionQuantizers()
    if bits != FLOAT:
        quantizers = AttentionQuantizers(
            qk=MovedLSQQuantizer(bits, (2, width), axis=(-3, -2), after_rows=after_rows),
            v=MovedLSQQuantizer(bits, (width,), axis=-1),
            probability=LSQQuantizer(bits, signed=False, axis=-2),
        )
    _move(quantizers, source)
    qkv, proj = linear(source.qkv, config), linear(source.proj, config)
    return kind(source.num_heads, qkv, proj, quantizers, (source.attn_drop.p, source.proj_drop.p))


def qkr_attention(source: Any, config: QuantConfig, kind: type[QKRAttention] = QKRAttention) -> QKRAttention:
    """Make an attention with query-key reparameterization from one of timm's, with the parts ``qkv`` and ``proj``."""
    bits, heads = config.input_bits, source.num_heads
    channels, width = source.qkv.in_features, source.qkv.out_features // 3
    # An "after" bias of u adds the same number to every key's score, which softmax cancels.
    after_rows = None if config.dead_biases else 0
    inside, image = AttentionQuantizers(), None
    if bits != FLOAT:
        inside = AttentionQuantizers(
            qk=MovedLSQQuantizer(bits, (heads, channels), axis=(-3, -2), after_rows=after_rows),
            v=MovedLSQQuantizer(bits, (width,), axis=-1),
            probability=LSQQuantizer(bits, signed=False, axis=-2),
        )
        image = MovedLSQQuantizer(bits, (channels,), axis=-2)
    quantizers = QKRQuantizers(image, weight_quantizer(config), inside)
    _move((quantizers.input, quantizers.weight, *inside), source)
    q, k, v = (_rows(source.qkv, part * width, width, bias=part == 2) for part in range(3))
    quantized_v = QuantLinear.from_linear(v, weight_quantizer=weight_quantizer(config), input_quantizer=None)
    layers = Projections(q, k, quantized_v, linear(source.proj, config))
    return kind(heads, layers, quantizers, (source.attn_drop.p, source.proj_drop.p))


def low_bit_weights(model: nn.Module, others: Callable[[nn.Module], Layers] = lambda module: ()) -> list[BlockWeight]:
    """List the low-bit weights of a quantized model's attentions and MLPs, in the order of its modules.

    Args:
        model: quantized.
        others: gives the further layers of a module; they count to the block that follows.
    """
    from timm.layers import Mlp  # a quantized model is made of timm's modules

    found: list[BlockWeight] = []
    block = -1
    for name, module in model.named_modules():
        block += isinstance(module, Quantized)
        parts: list[tuple[str, Any, slice]] = []
        if isinstance(module, QuantAttention):
            width = module.qkv.out_features // 3
            parts = [(group, module.qkv, slice(i * width, (i + 1) * width)) for i, group in enumerate("qkv")]
        elif isinstance(module, QKRAttention):
            parts = [("qk", module, slice(None)), ("v", module.v, slice(None))]
        elif isinstance(module, Mlp):
            parts = [(group, getattr(module, group), slice(None)) for group in ("fc1", "fc2")]
        if isinstance(module, Quantized):
            parts.append(("proj", module.proj, slice(None)))
        further = [(group, layer, slice(None)) for group, layer in others(module)]
        for group, layer, rows in parts + further:
            if getattr(layer, "weight_quantizer", None) is not None:
                found.append(BlockWeight(f"{name}.{group}", group, block + bool(further), layer, rows))
    return found


def _move(quantizers: Iterable[Quantizer | None], source: Any) -> None:
    """Move quantizers to where an attention's weights are."""
    for quantizer in quantizers:
        if quantizer is not None:
            quantizer.to(source.qkv.weight)


def _rows(source: nn.Linear, start: int, count: int, *, bias: bool) -> nn.Linear:
    """Copy output rows of a linear layer, weight (count, in_features), with their part of the bias if asked for."""
    part = nn.Linear(source.in_features, count, bias=bias and source.bias is not None, device="meta")
    rows = slice(start, start + count)
    part.weight = nn.Parameter(source.weight.detach()[rows].clone(), requires_grad=source.weight.requires_grad)
    if part.bias is not None:
        part.bias = nn.Parameter(source.bias.detach()[rows].clone(), requires_grad=source.bias.requires_grad)
    return part.train(source.training)


def _is_rectifying(activation: nn.Module) -> bool:
    """Return whether the activation's output is quantized unsigned: ReLU, and GELU, whose negative part is small."""
    from timm.layers import GELU, GELUTanh, QuickGELU

    return isinstance(activation, nn.ReLU | nn.ReLU6 | nn.GELU | GELU | GELUTanh | QuickGELU)
