"""Layers and attention against the fixtures, one case a test: initial steps, output, every gradient."""

from typing import Any

import pytest
from cases import Case, cases, weight_and_input_bits
from names import check_layer
from timm.layers import Attention, Mlp
from torch import nn

from ofq.quant import LSQQuantizer, QuantConfig, StatsQuantizer, calibrate, quantize_model
from ofq.quant.modules.conv import QuantConv2d
from ofq.quant.modules.linear import QuantLinear
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
    check_layer(case, layer, lambda: calibrate(layer, [case["x"]]))


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
    check_layer(case, head, lambda: calibrate(head, [case["x"]]))


@pytest.mark.parametrize("case", cases("qlinear", r"conv/w\d+a\d+"), ids=str)
def test_patch_convolution(case: Case) -> None:
    weight_bits, input_bits = weight_and_input_bits(case.prefix)
    out_channels, in_channels, height, width = case["param/weight"].shape
    conv = QuantConv2d(
        in_channels,
        out_channels,
        kernel_size=(height, width),
        weight_quantizer=LSQQuantizer(weight_bits),
        input_quantizer=MovedLSQQuantizer(input_bits, tuple(case["x"].shape[2:]), signed="detect", axis=1),
    )
    check_layer(case, conv, lambda: calibrate(conv, [case["x"]]))


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
    check_layer(case, mlp, lambda: calibrate(mlp, [case["x"]]))


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
    check_layer(case, attention, lambda: calibrate(attention, [case["x"]]))
