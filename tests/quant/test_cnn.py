"""Convolutional networks: what is quantized in them, and how each layer computes."""

from typing import Any

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from ofq.quant import LSQQuantizer, QuantConfig, block_weights, calibrate, quantize_model
from ofq.quant.families.cnn import ConvolutionalNetworks
from ofq.quant.modules.conv import QuantConv2d
from ofq.quant.modules.linear import QuantLinear
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.nagel import NagelQuantizer
from ofq.quant.weights import record_codes
from ofq.runs.registry import family_of, registered
from tests.quant.small import small_cnn, small_swin

CNNS = ["mobilenetv2", "mobilenetv3", "resnet"]
WEIGHTS = ["lsq", "lsq-midrise", "nagel", "rms", "statsq"]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def everything(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("padding", [0, 1, "same"])
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2}, {"groups": 4}, {"groups": 2, "bias": False}, {"dilation": 2}, {"padding_mode": "reflect"}],
    ids=str,
)
def test_a_convolution_without_quantizers_is_the_one_that_it_was(options: dict[str, Any], padding: Any) -> None:
    if padding == "same" and options.get("stride"):
        padding = 1
    conv = nn.Conv2d(4, 8, 3 if padding == "same" else (3, 2), **options, padding=padding)
    layer = QuantConv2d.from_conv(conv, weight_quantizer=None, input_quantizer=None)
    x = torch.randn(2, 4, 9, 8)
    assert torch.equal(layer(x), conv(x))
    assert layer.weight is conv.weight and layer.bias is conv.bias


@pytest.mark.parametrize("size", [(7, 7), (8, 9), (1, 4)])
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"stride": 2, "dilation": 2}, {"groups": 4, "stride": 3}], ids=str
)
def test_padding_as_tensorflow_has_it_stays(options: dict[str, Any], size: tuple[int, int]) -> None:
    conv = Conv2dSame(4, 4, (3, 2), **options)
    layer = QuantConv2d.from_conv(conv, weight_quantizer=None, input_quantizer=None)
    x = torch.randn(2, 4, *size)
    torch.testing.assert_close(layer(x), conv(x))


def test_a_convolution_rounds_weight_and_input_and_pads_with_zeros_behind() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    x = torch.rand(2, 4, 5, 5)
    weight, image = LSQQuantizer(3), LSQQuantizer(3, signed=False, axis=None)
    layer = QuantConv2d.from_conv(conv, weight_quantizer=weight, input_quantizer=image)
    calibrate(layer, [x])
    expected = nn.functional.conv2d(image(x), weight(conv.weight), conv.bias, padding=1, groups=4)
    torch.testing.assert_close(layer(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weight.recorded(layer.weight)
        assert layer(x).dtype == torch.bfloat16
        assert weight.last_codes is not None and torch.equal(weight.last_codes, weight.codes(conv.weight))


def test_another_convolution_is_refused() -> None:
    class Own(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    with pytest.raises(ValueError, match="the layer is Own, and only a plain Conv2d can be quantized there"):
        QuantConv2d.from_conv(Own(1, 1, 1), weight_quantizer=None, input_quantizer=None)


NONE, SIGNED, UNSIGNED = "none", "signed", "unsigned"
MAPS = {
    "mobilenetv2": [
        ("conv_stem", "stem", 8, NONE),
        ("blocks.0.0.conv_dw", "depthwise", 2, UNSIGNED),
        ("blocks.0.0.conv_pw", "pointwise", 2, UNSIGNED),
        ("blocks.1.0.conv_pw", "pointwise", 2, SIGNED),
        ("blocks.1.0.conv_dw", "depthwise", 2, UNSIGNED),
        ("blocks.1.0.conv_pwl", "pointwise", 2, UNSIGNED),
        ("blocks.1.1.conv_pw", "pointwise", 2, SIGNED),
        ("blocks.1.1.conv_dw", "depthwise", 2, UNSIGNED),
        ("blocks.1.1.conv_pwl", "pointwise", 2, UNSIGNED),
        ("conv_head", "pointwise", 2, SIGNED),
        ("classifier", "classifier", 8, UNSIGNED),
    ],
    "mobilenetv3": [
        ("conv_stem", "stem", 8, NONE),
        ("blocks.0.0.conv_dw", "depthwise", 2, SIGNED),
        ("blocks.0.0.se.conv_reduce", "se", 2, UNSIGNED),
        ("blocks.0.0.se.conv_expand", "se", 2, UNSIGNED),
        ("blocks.0.0.conv_pw", "pointwise", 2, UNSIGNED),
        ("blocks.1.0.conv_pw", "pointwise", 2, SIGNED),
        ("blocks.1.0.conv_dw", "depthwise", 2, SIGNED),
        ("blocks.1.0.se.conv_reduce", "se", 2, SIGNED),
        ("blocks.1.0.se.conv_expand", "se", 2, UNSIGNED),
        ("blocks.1.0.conv_pwl", "pointwise", 2, SIGNED),
        ("blocks.1.1.conv_pw", "pointwise", 2, SIGNED),
        ("blocks.1.1.conv_dw", "depthwise", 2, SIGNED),
        ("blocks.1.1.se.conv_reduce", "se", 2, SIGNED),
        ("blocks.1.1.se.conv_expand", "se", 2, UNSIGNED),
        ("blocks.1.1.conv_pwl", "pointwise", 2, SIGNED),
        ("blocks.2.0.conv", "pointwise", 2, SIGNED),
        ("conv_head", "pointwise", 2, SIGNED),
        ("classifier", "classifier", 8, SIGNED),
    ],
    "resnet": [
        ("conv1", "stem", 8, NONE),
        ("layer1.0.conv1", "conv", 2, UNSIGNED),
        ("layer1.0.conv2", "conv", 2, UNSIGNED),
        ("layer1.0.downsample.0", "pointwise", 2, UNSIGNED),
        ("layer2.0.conv1", "conv", 2, UNSIGNED),
        ("layer2.0.conv2", "conv", 2, UNSIGNED),
        ("layer2.0.downsample.0", "pointwise", 2, UNSIGNED),
        ("layer3.0.conv1", "conv", 2, UNSIGNED),
        ("layer3.0.conv2", "conv", 2, UNSIGNED),
        ("layer3.0.downsample.0", "pointwise", 2, UNSIGNED),
        ("layer4.0.conv1", "conv", 2, UNSIGNED),
        ("layer4.0.conv2", "conv", 2, UNSIGNED),
        ("layer4.0.downsample.0", "pointwise", 2, UNSIGNED),
        ("fc", "classifier", 8, UNSIGNED),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", CNNS)
def test_layers_their_groups_bits_and_signs(kind: str) -> None:
    model = quantize_model(small_cnn(kind), QuantConfig(weight="lsq", weight_bits=2, input_bits=3))
    groups = {weight.name: weight.group for weight in block_weights(model)}
    assert list(groups) == [name for name, group, *_ in MAPS[kind] if group not in ("stem", "classifier")]
    layers = {n: m for n, m in model.named_modules() if isinstance(m, QuantConv2d | QuantLinear)}
    assert layers.keys() == {name for name, *_ in MAPS[kind]}
    for name, group, bits, sign in MAPS[kind]:
        layer: Any = layers[name]
        assert groups.get(name, group) == group
        assert layer.weight_quantizer.bits == bits and layer.weight_quantizer.axis == 0
        image = layer.input_quantizer
        assert (NONE if image is None else SIGNED if image.signed else UNSIGNED) == sign, name
        assert image is None or (image.bits == (3 if bits == 2 else 8) and image.axis is None)


@pytest.mark.parametrize(
    "name",
    [
        *("mobilenetv2_035", "mobilenetv3_small_050", "tf_mobilenetv3_small_075", "efficientnet_es", "mobilenetv1_100"),
        *("resnet10t", "seresnet18", "resnet26d", "efficientnet_lite0", "test_efficientnet", "test_resnet"),
    ],
)
def test_an_input_is_unsigned_where_no_value_is_negative(name: str) -> None:
    """Against what passes through timm's own model with random norms, in training mode."""
    torch.manual_seed(0)
    model = timm.create_model(name, in_chans=1, num_classes=10, drop_path_rate=0.2).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    least: dict[str, float] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_pre_hook(lambda module, x, path=path: least.update({path: x[0].min().item()}))
    model(torch.randn(4, 1, 32, 32))
    quantize_model(model, QuantConfig(weight="lsq"))
    layers = {path: m for path, m in model.named_modules() if isinstance(m, QuantConv2d | QuantLinear)}
    assert layers.keys() == least.keys()
    for path, layer in layers.items():
        if layer.input_quantizer is not None:
            assert layer.input_quantizer.signed == (least[path] < 0), (path, least[path])


@pytest.mark.parametrize("axis", ["channel", "tensor"])
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("kind", CNNS)
def test_a_model_learns_and_is_saved_whole(kind: str, weight: str, axis: Any, images: Tensor) -> None:
    config = QuantConfig(weight=weight, weight_bits=3, input_bits=4, weight_axis=axis)
    model = quantize_model(small_cnn(kind), config).train()
    calibrate(model, [images])
    record_codes(model)
    out = model(images)
    for each in block_weights(model):
        codes = each.codes()
        assert codes.shape == each.latent().shape == each.position().shape and torch.equal(each.last_codes(), codes)
        assert codes.unique().numel() <= 8 and each.step_width() > 0
        steps = each.quantizer.step(each.latent())
        assert len(steps) == (len(codes) if axis == "channel" else 1)
    out.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    again = quantize_model(small_cnn(kind), config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(images), model.eval()(images))


@pytest.mark.parametrize("kind", CNNS)
def test_calibration_leaves_the_statistics_of_batch_norms(kind: str, images: Tensor) -> None:
    model = small_cnn(kind).train()
    for _ in range(3):
        model(images)
    quantize_model(model, QuantConfig(weight="lsq"))
    before = everything(model)
    assert any(name.endswith("running_mean") and value.any() for name, value in before.items())
    calibrate(model, [images, images[:3]])
    after = everything(model)
    assert all(torch.equal(after[name], value) for name, value in before.items()) and len(after) > len(before)
    assert model.training


@pytest.mark.parametrize("weight", WEIGHTS)
def test_with_32_bits_only_weights_are_quantized(weight: str, images: Tensor) -> None:
    model = quantize_model(small_cnn("mobilenetv3"), QuantConfig(weight=weight, input_bits=32))
    found = [name for name, module in model.named_modules() if isinstance(module, Quantizer)]
    assert len(found) == len(MAPS["mobilenetv3"]) and all(name.endswith("weight_quantizer") for name in found)
    if weight not in ("rms", "statsq"):
        calibrate(model, [images])
        assert model(images).isfinite().all()


def test_edges_have_the_quantizer_of_nagel_where_the_blocks_have_it(images: Tensor) -> None:
    switches: dict[str, Any] = {"fit": "minmax", "gradient_scale": True}
    model: Any = quantize_model(
        small_cnn("resnet"), QuantConfig(weight="nagel", edge_bits=6, weight_axis="tensor", **switches)
    )
    for layer in (model.conv1, model.fc):
        quantizer = layer.weight_quantizer
        assert isinstance(quantizer, NagelQuantizer) and (quantizer.bits, quantizer.axis, quantizer.fit) == (
            6,
            None,
            "minmax",
        )
    other: Any = quantize_model(small_cnn("resnet"), QuantConfig(weight="statsq", weight_axis="tensor"))
    assert type(other.fc.weight_quantizer) is LSQQuantizer and other.fc.weight_quantizer.axis is None


def test_a_model_without_classes_has_no_classifier(images: Tensor) -> None:
    model = timm.create_model("test_resnet", in_chans=1, num_classes=0)
    calibrate(quantize_model(model, QuantConfig(weight="lsq")), [images])
    assert model(images).ndim == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg11", r"VGG is none of these \(11 layers with 100\.0 % of the model's weights\)"),
        ("mixnet_s", r"would stay in full precision \(82 layers with 16\.4 % of the model's weights\)"),
        ("ecaresnet26t", r"layer1\.0\.se\.conv would stay in full precision \(8 layers with 0\.0 % of"),
        ("efficientnet_cc_b0_4e", "would stay in full precision"),
        ("mobilenetv4_conv_small_035", r"blocks\.2\.0\.dw_start\.conv would stay in full precision"),
    ],
)
def test_a_model_with_a_layer_that_would_stay_float_is_refused_by_name(name: str, message: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    before = {path: type(module) for path, module in model.named_modules()}
    with pytest.raises(ValueError, match=message) as caught:
        quantize_model(model, QuantConfig(weight="lsq"))
    assert "\n" not in str(caught.value)
    assert before == {path: type(module) for path, module in model.named_modules()}, "nothing is touched"


def test_a_layer_of_another_kind_is_refused_by_name() -> None:
    model: Any = small_cnn("resnet")
    nn.utils.parametrizations.weight_norm(model.layer2[0].conv1)
    with pytest.raises(ValueError, match=r"layer2\.0\.conv1 is one whose weight is computed"):
        quantize_model(model, QuantConfig(weight="lsq"))


def test_what_belongs_to_attention_means_nothing_here() -> None:
    model = small_cnn("resnet")
    with pytest.raises(ValueError, match="qkr reparameterizes queries and keys, and a convolutional network has none"):
        quantize_model(model, QuantConfig(qkr=True))
    quantize_model(model, QuantConfig(dead_biases=True, map_steps="column", merging_bias=True))


def test_a_layer_that_is_put_in_later_is_refused(images: Tensor) -> None:
    model: Any = quantize_model(small_cnn("mobilenetv2"), QuantConfig(weight="lsq"))
    calibrate(model, [images])
    model.blocks[1][0].conv_dw = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    with pytest.raises(ValueError, match=r"blocks\.1\.0\.conv_dw would compute in full precision"):
        model(images)


def test_the_names_of_timms_models_lead_to_the_family_of_their_class() -> None:
    """So that the digest of a run's code has the family that converts its model."""
    for module in ("efficientnet", "mobilenetv3", "resnet"):
        assert {name for name in timm.list_models(module=module) if family_of(name).name != "cnn"} == set()
    for module in ("vision_transformer", "swin_transformer", "deit"):
        assert {family_of(name).name for name in timm.list_models(module=module)} <= {"vit", "swin"}
    assert list(registered("family")) == ["cnn", "swin", "vit"]
    assert not ConvolutionalNetworks().fits(small_swin())
