"""Layers and attention against the fixtures, one case a test: initial steps, output, every gradient."""

from typing import Any

import pytest
from cases import Case, cases, weight_and_input_bits
from names import check_layer
from timm.layers import Attention, Mlp
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock, WindowAttention
from torch import Tensor, nn
from torch.nn import functional as F

from ofq.quant import LSQQuantizer, QuantConfig, StatsQuantizer, quantize_model
from ofq.quant.modules.linear import QuantLinear
from ofq.quant.modules.patches import QuantPatches
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.lsq import MovedLSQQuantizer

HEADS = 3  # of the attention fixtures (section 5); their arrays do not show it


def _weight_quantizer(kind: str, bits: int) -> Quantizer:
    return StatsQuantizer(bits) if kind == "statsq" else LSQQuantizer(bits, axis=0)


@pytest.mark.parametrize("case", cases("qlinear", r"(?:statsq|lsq)/w\d+a\d+/(?:sym|pos)"), ids=str)
def test_linear(case: Case) -> None:
    kind, bits, mode = case.prefix.split("/")
    weight_bits, input_bits = weight_and_input_bits(bits)
    out_features, in_features = case["param/weight"].shape
    layer = QuantLinear(
        in_features,
        out_features,
        weight_quantizer=_weight_quantizer(kind, weight_bits),
        input_quantizer=MovedLSQQuantizer(input_bits, (in_features,), signed=mode == "sym"),
    )
    check_layer(case, layer)


@pytest.mark.parametrize("case", cases("qlinear", r"head/w\d+a\d+"), ids=str)
def test_head(case: Case) -> None:
    weight_bits, input_bits = weight_and_input_bits(case.prefix)
    out_features, in_features = case["param/weight"].shape
    head = QuantLinear(
        in_features,
        out_features,
        weight_quantizer=LSQQuantizer(weight_bits),
        input_quantizer=MovedLSQQuantizer(input_bits, (in_features,), axis=None),
    )
    check_layer(case, head)


@pytest.mark.parametrize("case", cases("qlinear", r"conv/w\d+a\d+"), ids=str)
def test_patch_convolution(case: Case) -> None:
    weight_bits, input_bits = weight_and_input_bits(case.prefix)
    out_channels, in_channels, height, width = case["param/weight"].shape
    conv = QuantPatches(
        in_channels,
        out_channels,
        kernel_size=(height, width),
        weight_quantizer=LSQQuantizer(weight_bits),
        input_quantizer=MovedLSQQuantizer(input_bits, tuple(case["x"].shape[2:]), signed="detect", axis=1),
    )
    check_layer(case, conv)


def _config(kind: str, text: str, **switches: Any) -> QuantConfig:
    weight_bits, input_bits = weight_and_input_bits(text)
    return QuantConfig(weight=kind, weight_bits=weight_bits, input_bits=input_bits, **switches)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", cases("qlinear", r"mlp/(?:statsq|lsq)/w\d+a\d+"), ids=str)
def test_mlp(case: Case) -> None:
    _, kind, bits = case.prefix.split("/")
    hidden, width = case["param/fc1.weight"].shape
    # quantize_model wants an attention; this one is thrown away.
    model = nn.ModuleDict({"attn": Attention(width, num_heads=1), "mlp": Mlp(width, hidden, act_layer=nn.GELU)})
    mlp = quantize_model(model, _config(kind, bits)).mlp
    assert isinstance(mlp, Mlp)
    check_layer(case, mlp)


@pytest.mark.parametrize("case", cases("attn_*", ""), ids=str)
def test_attention(case: Case) -> None:
    _, kind, bits = case.file.split("_")
    qkr = kind == "qkr"
    tokens, width = case["x"].shape[1:]
    heads = case["param/quan_a_qkx_fn.s"].numel() // tokens if qkr else HEADS
    model = nn.ModuleDict({"attn": Attention(width, num_heads=heads, qkv_bias=True)})
    config = _config("statsq" if qkr else kind, bits, qkr=qkr, dead_biases=True)
    attention = quantize_model(model, config).attn
    assert isinstance(attention, nn.Module)
    check_layer(case, attention)


# The released code has learned steps by columns and biases of mergings, beside what softmax cancels.
AS_RELEASED = {"dead_biases": True, "map_steps": "column", "merging_bias": True}


class Windows(nn.Module):
    """The windows of timm's block around its attention.

    The fixtures pad a map before they shift it, timm shifts first: so the block is one of the padded map.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        (height, width), (rows, columns) = x.shape[1:3], self.block.input_resolution
        padded = F.pad(x, (0, 0, 0, columns - width, 0, rows - height))  # (B, rows, columns, C)
        out: Tensor = self.block._attn(padded)[:, :height, :width]
        return out


@pytest.mark.parametrize("case", cases("swin_attn_*", "shift0|shift2|pad"), ids=str)
def test_attention_in_windows(case: Case) -> None:
    window, shift, heads, bits = case["hyper"].tolist()
    *resolution, channels = case["x"].shape[1:]
    padded = [-(-size // window) * window for size in resolution]
    block: Any = SwinTransformerBlock(channels, padded, heads, window_size=window, shift_size=shift)
    config = _config("statsq", case.file, qkr="_qkr_" in case.file, **AS_RELEASED)
    assert (
        config.weight_bits == bits
        and block.shift_size == (shift, shift)
        and (block.attn_mask is not None) == (shift > 0)
    )
    quantize_model(block, config)
    block.mlp = nn.Identity()
    check_layer(case, block.attn, Windows(block))


@pytest.mark.parametrize("case", cases("swin_mlp_*", ""), ids=str)
def test_mlp_on_a_map(case: Case) -> None:
    *resolution, channels = case["x"].shape[1:]
    block: Any = SwinTransformerBlock(channels, resolution, num_heads=1)
    mlp = quantize_model(block, _config("statsq", case.file, **AS_RELEASED)).mlp

    class Flat(nn.Module):
        """timm's block has the tokens of a map one after another."""

        def __init__(self) -> None:
            super().__init__()
            self.mlp = mlp

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.mlp(x.flatten(1, 2))  # (B, h*w, C)
            return out.unflatten(1, resolution)

    check_layer(case, mlp, Flat())


@pytest.mark.parametrize("case", cases("swin_merge_*", "even|odd"), ids=str)
def test_patch_merging(case: Case) -> None:
    out_dim, _ = case["param/reduction.weight"].shape
    # quantize_model wants an attention; this one is thrown away.
    channels = case["x"].shape[-1]
    model = nn.ModuleDict({"attn": WindowAttention(channels, num_heads=1), "merge": PatchMerging(channels, out_dim)})
    merging = quantize_model(model, _config("statsq", case.file, **AS_RELEASED)).merge
    assert isinstance(merging, PatchMerging)
    check_layer(case, merging)
