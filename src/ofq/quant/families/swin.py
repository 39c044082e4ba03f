"""Swin transformers: attention inside windows of a map of tokens, and maps that are merged."""

from functools import partial
from typing import Any

from torch import nn

from ofq.config.quant_config import QuantConfig
from ofq.quant.families import parts
from ofq.quant.families.base import BlockWeight, Family, Replacements
from ofq.quant.modules.linear import QuantLinear
from ofq.quant.modules.window import ColumnLinear, QKRWindowAttention, WindowAttention
from ofq.runs.registry import register


@register("swin", models=["swin_*"], switches=["map_steps", "merging_bias"])
class SwinTransformers(Family):
    """timm's ``SwinTransformer`` (the first version), and modules made of its parts.

    Patch embedding, attention, MLP, patch merging and head are found by their type. The first and the last layer have
    ``edge_bits``. Groups of low-bit weights are those of a vision transformer and ``reduction``, the linear layer of a
    patch merging, which counts to the block that follows. Inside a window learned steps belong to positions in the
    window, elsewhere to positions of the map, or to its columns (``map_steps``); so a model has one size of images.

    Source: tests/golden/README.md section 10.
    """

    supported = "timm's SwinTransformer, and modules made of its parts"

    def fits(self, model: nn.Module) -> bool:
        """Return whether a model has Swin's attention, or what takes its place."""
        from timm.models import swin_transformer as timm_swin  # here, because timm takes seconds to import

        return parts.holds(model, timm_swin.WindowAttention, (WindowAttention, QKRWindowAttention))

    def check(self, model: nn.Module) -> None:
        """Raise ValueError for what cannot be converted, before anything is changed."""
        from timm.layers import ClassifierHead, Mlp, PatchEmbed
        from timm.models import swin_transformer as timm_swin

        for inside, module in parts.modules_by_path(model):
            if type(module) is timm_swin.WindowAttention:
                parts.check_linears(inside, module, "qkv", "proj")
            elif type(module) is timm_swin.PatchMerging:
                parts.check_linears(inside, module, "reduction")
            elif type(module) is Mlp:
                parts.check_mlp(inside, module)
            elif isinstance(module, PatchEmbed):
                parts.check_embedding(inside, module)
            elif type(module) is ClassifierHead and not isinstance(module.fc, nn.Identity):
                parts.check_linears(inside, module, "fc")
            elif isinstance(module, timm_swin.SwinTransformerBlock) and module.dynamic_mask:
                raise ValueError(
                    "dynamic_img_size, or strict_img_size=False, is not supported: learned steps belong to positions"
                )

    def convert(self, model: nn.Module, config: QuantConfig) -> Replacements:
        """Make the quantized layers that take the place of a checked model's, which stays as it is."""
        from timm.layers import ClassifierHead, Mlp, PatchEmbed
        from timm.models import swin_transformer as timm_swin

        blocks: list[Any] = [each for each in model.modules() if isinstance(each, timm_swin.SwinTransformerBlock)]
        columns = {block.mlp: block.input_resolution[1] for block in blocks} if config.map_steps == "column" else {}
        made = parts.convert_attentions(model, timm_swin.WindowAttention, config, _attention)
        for parent in model.modules():
            if type(parent) is Mlp:
                make = partial(_column_linear, columns=columns[parent]) if parent in columns else parts.linear
                made |= parts.convert_mlp(parent, config, make)
            elif type(parent) is timm_swin.PatchMerging:
                made[parent, "reduction"] = _reduction(parent.reduction, config)
            elif isinstance(parent, PatchEmbed):
                made |= parts.convert_embedding(parent, config)
            elif type(parent) is ClassifierHead and not isinstance(parent.fc, nn.Identity):
                made[parent, "fc"] = parts.head(parent.fc, config)
        return made

    def low_bit_weights(self, model: nn.Module) -> list[BlockWeight]:
        """List every low-bit weight of the blocks of a quantized model, in the order in which the blocks use them."""
        from timm.models import swin_transformer as timm_swin

        def merging(module: nn.Module) -> parts.Layers:
            return [("reduction", module.reduction)] if type(module) is timm_swin.PatchMerging else ()

        return parts.low_bit_weights(model, merging)


def _attention(source: Any, config: QuantConfig) -> nn.Module:
    made: Any
    if config.qkr:
        made = parts.qkr_attention(source, config, QKRWindowAttention)
    else:
        made = parts.attention(source, config, WindowAttention)
    made.take_positions(source)
    return made


def _column_linear(source: nn.Linear, config: QuantConfig, *, signed: bool, columns: int) -> QuantLinear:
    made: Any = parts.linear(source, config, signed=signed, kind=ColumnLinear)
    made.columns = columns
    return made


def _reduction(source: nn.Linear, config: QuantConfig) -> QuantLinear:
    """Make the linear layer of a patch merging, whose input is a map (B, rows, columns, 4C)."""
    if config.merging_bias and source.bias is None:
        # As in the released code the bias starts from random numbers, those of every new linear layer.
        width, device, dtype = source.out_features, source.weight.device, source.weight.dtype
        biased = nn.Linear(source.in_features, width, device=device, dtype=dtype).train(source.training)
        biased.weight, source = source.weight, biased
    return parts.linear(source, config, axis=-2 if config.map_steps == "column" else (-3, -2))
