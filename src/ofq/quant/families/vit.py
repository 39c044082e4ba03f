"""Vision transformers made of timm's PatchEmbed, Attention and Mlp, plain or distilled."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from ofq.config.quant_config import QuantConfig
from ofq.quant.families.base import BlockWeight, Family, Replacements, weight_quantizer
from ofq.quant.modules.attention import AttentionQuantizers, QuantAttention
from ofq.quant.modules.conv import QuantConv2d, check_patches
from ofq.quant.modules.linear import QuantLinear, check_plain
from ofq.quant.modules.qkr import Projections, QKRAttention, QKRQuantizers
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.lsq import LSQQuantizer, MovedLSQQuantizer
from ofq.runs.registry import register

_Quantized = QuantAttention | QKRAttention
# Options of timm's attention that are not supported, and the submodules that they add.
_ATTENTION_OPTIONS = {"qk_norm": ("q_norm", "k_norm"), "scale_norm": ("norm",), "gated": ("gate",)}


@register("vit", models=["*"])
class VisionTransformers(Family):
    """timm's ``VisionTransformer`` and ``VisionTransformerDistilled``, and modules made of their parts.

    Patch embedding, attention, MLP and heads are found by their type. The first and the last layer have
    ``edge_bits``. Groups of low-bit weights are ``q``, ``k``, ``v``, ``proj``, ``fc1`` and ``fc2``; a joint ``qkv``
    gives three, its thirds. Under query-key reparameterization the product, ``qk``, takes the place of ``q`` and ``k``.

    Source: tests/golden/README.md sections 4, 5 and 9.
    """

    supported = "timm's VisionTransformer and VisionTransformerDistilled, and modules made of their parts"

    def fits(self, model: nn.Module) -> bool:
        """Return whether a model has timm's attention, or what takes its place."""
        from timm.layers import Attention  # here, because timm takes seconds to import

        inside = [module for module in model.modules() if module is not model or type(module) is not Attention]
        return any(type(module) is Attention or isinstance(module, _Quantized) for module in inside)

    def check(self, model: nn.Module) -> None:
        """Raise ValueError for what cannot be converted, before anything is changed."""
        from timm.layers import Attention, Mlp, PatchEmbed
        from timm.models import VisionTransformer

        for name, module in model.named_modules():
            inside = f"{name}." if name else ""
            if type(module) is Attention:
                for option, names in _ATTENTION_OPTIONS.items():
                    if not all(isinstance(getattr(module, name, None), nn.Identity | None) for name in names):
                        raise ValueError(f"attention with {option} is not supported")
                for part in ("qkv", "proj"):
                    check_plain(inside + part, getattr(module, part), nn.Linear)
            elif type(module) is Mlp:
                if isinstance(module.fc1, nn.Conv2d):
                    raise ValueError("an Mlp with use_conv is not supported")
                for part in ("fc1", "fc2"):
                    check_plain(inside + part, getattr(module, part), nn.Linear)
            elif isinstance(module, PatchEmbed):
                if module.img_size is None or module.dynamic_img_pad:
                    raise ValueError("PatchEmbed without a fixed img_size is not supported: move biases have its size")
                check_patches(f"{inside}proj", module.proj)
            elif isinstance(module, VisionTransformer):
                _check_transformer(module)
                for part in _heads(module):
                    check_plain(inside + part, getattr(module, part), nn.Linear)

    def convert(self, model: nn.Module, config: QuantConfig) -> Replacements:
        """Make the quantized layers that take the place of a checked model's, which stays as it is."""
        from timm.layers import Attention, Mlp, PatchEmbed
        from timm.models import VisionTransformer

        attention = _qkr_attention if config.qkr else _attention
        made: Replacements = {}
        # A module that stands in several places is converted once.
        converted: dict[nn.Module, nn.Module] = {}
        for parent in model.modules():
            for name, child in parent._modules.items():
                if type(child) is Attention:
                    if child not in converted:
                        converted[child] = attention(child, config).train(child.training)
                    made[parent, name] = converted[child]
            if type(parent) is Mlp:
                rectified = _is_rectifying(parent.act) and isinstance(parent.norm, nn.Identity)
                for name, signed in (("fc1", True), ("fc2", not rectified)):
                    made[parent, name] = _linear(getattr(parent, name), config, signed=signed)
            elif isinstance(parent, PatchEmbed):
                made[parent, "proj"] = QuantConv2d.from_conv(
                    parent.proj,
                    weight_quantizer=LSQQuantizer(config.edge_bits, axis=0),
                    input_quantizer=MovedLSQQuantizer(config.edge_bits, parent.img_size, signed="detect", axis=1),
                )
            elif isinstance(parent, VisionTransformer):
                made |= {(parent, name): _head(getattr(parent, name), config.edge_bits) for name in _heads(parent)}
        return made

    def low_bit_weights(self, model: nn.Module) -> list[BlockWeight]:
        """List every low-bit weight of the blocks of a quantized model, in the order in which the blocks use them."""
        from timm.layers import Mlp  # a quantized model is made of timm's modules

        found: list[BlockWeight] = []
        block = -1
        for name, module in model.named_modules():
            parts: list[tuple[str, Any, slice]] = []
            if isinstance(module, QuantAttention):
                width = module.qkv.out_features // 3
                parts = [(group, module.qkv, slice(i * width, (i + 1) * width)) for i, group in enumerate("qkv")]
            elif isinstance(module, QKRAttention):
                parts = [("qk", module, slice(None)), ("v", module.v, slice(None))]
            elif isinstance(module, Mlp):
                parts = [(group, getattr(module, group), slice(None)) for group in ("fc1", "fc2")]
            if isinstance(module, _Quantized):
                block += 1
                parts.append(("proj", module.proj, slice(None)))
            for group, layer, rows in parts:
                if getattr(layer, "weight_quantizer", None) is not None:
                    found.append(BlockWeight(f"{name}.{group}", group, block, layer, rows))
        return found


def _linear(source: nn.Linear, config: QuantConfig, *, signed: bool = True) -> QuantLinear:
    quantizer = MovedLSQQuantizer(config.input_bits, (source.in_features,), signed=signed, axis=-2)
    return QuantLinear.from_linear(source, weight_quantizer=weight_quantizer(config), input_quantizer=quantizer)


def _head(source: nn.Linear, bits: int) -> QuantLinear:
    return QuantLinear.from_linear(
        source,
        weight_quantizer=LSQQuantizer(bits, axis=0),
        input_quantizer=MovedLSQQuantizer(bits, (source.in_features,), axis=None),
    )


def _attention(source: Any, config: QuantConfig) -> QuantAttention:
    bits, width = config.input_bits, source.qkv.out_features // 3
    # Only the query has an "after" bias: softmax cancels that of a key, and AdamW would turn the rounding noise in its
    # gradient into a random walk.
    after_rows = 2 if config.dead_biases else 1
    quantizers = AttentionQuantizers(
        qk=MovedLSQQuantizer(bits, (2, width), axis=(-3, -2), after_rows=after_rows),
        v=MovedLSQQuantizer(bits, (width,), axis=-1),
        probability=LSQQuantizer(bits, signed=False, axis=-2),
    )
    _move(quantizers, source)
    qkv, proj = _linear(source.qkv, config), _linear(source.proj, config)
    return QuantAttention(source.num_heads, qkv, proj, quantizers, (source.attn_drop.p, source.proj_drop.p))


def _qkr_attention(source: Any, config: QuantConfig) -> QKRAttention:
    bits, heads = config.input_bits, source.num_heads
    channels, width = source.qkv.in_features, source.qkv.out_features // 3
    # An "after" bias of u adds the same number to every key's score, which softmax cancels.
    after_rows = None if config.dead_biases else 0
    inside = AttentionQuantizers(
        qk=MovedLSQQuantizer(bits, (heads, channels), axis=(-3, -2), after_rows=after_rows),
        v=MovedLSQQuantizer(bits, (width,), axis=-1),
        probability=LSQQuantizer(bits, signed=False, axis=-2),
    )
    quantizers = QKRQuantizers(MovedLSQQuantizer(bits, (channels,), axis=-2), weight_quantizer(config), inside)
    _move((quantizers.input, quantizers.weight, *inside), source)
    q, k, v = (_rows(source.qkv, part * width, width, bias=part == 2) for part in range(3))
    quantized_v = QuantLinear.from_linear(v, weight_quantizer=weight_quantizer(config), input_quantizer=None)
    layers = Projections(q, k, quantized_v, _linear(source.proj, config))
    return QKRAttention(heads, layers, quantizers, (source.attn_drop.p, source.proj_drop.p))


def _move(quantizers: Iterable[Quantizer | None], attention: Any) -> None:
    """Move quantizers to where an attention's weights are."""
    for quantizer in quantizers:
        assert quantizer is not None
        quantizer.to(attention.qkv.weight)


def _heads(transformer: nn.Module) -> list[str]:
    """Return the names of a transformer's heads; one without classes has none."""
    return [
        name for name in ("head", "head_dist") if not isinstance(getattr(transformer, name, None), nn.Identity | None)
    ]


def _rows(linear: nn.Linear, start: int, count: int, *, bias: bool) -> nn.Linear:
    """Copy output rows of a linear layer, weight (count, in_features), with their part of the bias if asked for."""
    part = nn.Linear(linear.in_features, count, bias=bias and linear.bias is not None, device="meta")
    rows = slice(start, start + count)
    part.weight = nn.Parameter(linear.weight.detach()[rows].clone(), requires_grad=linear.weight.requires_grad)
    if part.bias is not None:
        part.bias = nn.Parameter(linear.bias.detach()[rows].clone(), requires_grad=linear.bias.requires_grad)
    return part.train(linear.training)


def _is_rectifying(activation: nn.Module) -> bool:
    """Return whether the activation's output is quantized unsigned: ReLU, and GELU, whose negative part is small."""
    from timm.layers import GELU, GELUTanh, QuickGELU

    return isinstance(activation, nn.ReLU | nn.ReLU6 | nn.GELU | GELU | GELUTanh | QuickGELU)


def _check_transformer(model: Any) -> None:
    # Learned steps belong to token positions, so every forward pass must have all positions.
    if model.dynamic_img_size:
        raise ValueError("dynamic_img_size is not supported: learned steps belong to token positions")
    if not isinstance(model.patch_drop, nn.Identity):
        raise ValueError("patch_drop_rate is not supported: learned steps belong to token positions")
    if model.attn_pool is not None:
        raise ValueError("attention pooling (global_pool='map' or 'prr') is not supported")
