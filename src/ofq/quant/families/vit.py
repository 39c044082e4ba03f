"""Vision transformers made of timm's PatchEmbed, Attention and Mlp, plain or distilled."""

from typing import Any

from torch import nn

from ofq.config.quant_config import QuantConfig
from ofq.quant.families import parts
from ofq.quant.families.base import BlockWeight, Family, Replacements
from ofq.quant.modules.attention import QuantAttention
from ofq.quant.modules.qkr import QKRAttention
from ofq.runs.registry import register

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

        return parts.holds(model, Attention, (QuantAttention, QKRAttention))

    def check(self, model: nn.Module) -> None:
        """Raise ValueError for what cannot be converted, before anything is changed."""
        from timm.layers import Attention, Mlp, PatchEmbed
        from timm.models import VisionTransformer

        for inside, module in parts.modules_by_path(model):
            if type(module) is Attention:
                for option, names in _ATTENTION_OPTIONS.items():
                    if not all(isinstance(getattr(module, name, None), nn.Identity | None) for name in names):
                        raise ValueError(f"attention with {option} is not supported")
                parts.check_linears(inside, module, "qkv", "proj")
            elif type(module) is Mlp:
                parts.check_mlp(inside, module)
            elif isinstance(module, PatchEmbed):
                parts.check_embedding(inside, module)
            elif isinstance(module, VisionTransformer):
                _check_transformer(module)
                parts.check_linears(inside, module, *_heads(module))

    def convert(self, model: nn.Module, config: QuantConfig) -> Replacements:
        """Make the quantized layers that take the place of a checked model's, which stays as it is."""
        from timm.layers import Attention, Mlp, PatchEmbed
        from timm.models import VisionTransformer

        attention = parts.qkr_attention if config.qkr else parts.attention
        made = parts.convert_attentions(model, Attention, config, attention)
        for parent in model.modules():
            if type(parent) is Mlp:
                made |= parts.convert_mlp(parent, config, parts.linear)
            elif isinstance(parent, PatchEmbed):
                made |= parts.convert_embedding(parent, config)
            elif isinstance(parent, VisionTransformer):
                made |= {(parent, name): parts.head(getattr(parent, name), config) for name in _heads(parent)}
        return made

    def low_bit_weights(self, model: nn.Module) -> list[BlockWeight]:
        """List every low-bit weight of the blocks of a quantized model, in the order in which the blocks use them."""
        return parts.low_bit_weights(model)


def _heads(transformer: nn.Module) -> list[str]:
    """Return the names of a transformer's heads; one without classes has none."""
    return [
        name for name in ("head", "head_dist") if not isinstance(getattr(transformer, name, None), nn.Identity | None)
    ]


def _check_transformer(model: Any) -> None:
    # Learned steps belong to token positions, so every forward pass must have all positions.
    if model.dynamic_img_size:
        raise ValueError("dynamic_img_size is not supported: learned steps belong to token positions")
    if not isinstance(model.patch_drop, nn.Identity):
        raise ValueError("patch_drop_rate is not supported: learned steps belong to token positions")
    if model.attn_pool is not None:
        raise ValueError("attention pooling (global_pool='map' or 'prr') is not supported")
