"""Deployed models compute what the trained ones do, from integers."""

import copy
import warnings
from typing import Any

import pytest
import torch
from timm.models import create_model
from torch import Tensor, nn
from torch.nn import functional as F

from ofq.export.deploy import StoredStep, coded_modules, deployed, entry_of
from ofq.quant import QuantConfig, calibrate, quantize_model
from ofq.quant.modules.linear import QuantLinear
from ofq.quant.quantizers.base import Quantizer
from tests.export.small import MODELS, pictures, prepared
from tests.quant.small import KINDS, name_of, small_cnn


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize(
    "switches", [*KINDS, {"weight": "rms"}, {"weight": "nagel", "weight_axis": "tensor"}], ids=name_of
)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_deployed_model_gives_the_logits_of_the_trained_one(name: str, switches: dict[str, Any], bits: int) -> None:
    with warnings.catch_warnings(action="ignore"):
        model, _ = prepared(name, **switches, weight_bits=bits, input_bits=bits)
    images = pictures(32, seed=7)
    expected = model(images)
    assert len(expected.unique()) > 50
    if switches["weight"] == "rms" and bits > 2:  # the base class multiplies (code + 1/2)*step, the others add step/2
        torch.testing.assert_close(deployed(model)(images), expected, atol=1e-5, rtol=0)
    else:
        assert torch.equal(deployed(model)(images), expected)


@pytest.mark.parametrize("kind", ["mobilenetv2", "mobilenetv3", "resnet"])
def test_a_convolutional_network_is_refused_whole(kind: str) -> None:
    model = quantize_model(small_cnn(kind), QuantConfig(weight="lsq"))
    calibrate(model, [torch.rand(2, 1, 16, 16)])
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(ValueError, match=r"^conv\w* is a convolution, and convolutional networks cannot be exported"):
        deployed(model)
    assert before == {name: type(module) for name, module in model.named_modules()}


@torch.no_grad()
def test_columns_of_a_map_share_steps_and_their_bias_is_folded_too() -> None:
    model, _ = prepared("swin_tiny_patch4_window7_224", weight="statsq", input_bits=8, map_steps="column")
    images = pictures(8)
    expected = model(images)
    torch.testing.assert_close(deployed(model)(images), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("switches", [{"weight": "statsq"}, {"weight": "lsq", "qkr": True}], ids=name_of)
def test_it_holds_integers_steps_and_biases_only(switches: dict[str, Any]) -> None:
    model, _ = prepared(**switches)
    latent = {name for name, value in model.state_dict().items() if value.is_floating_point() and value.ndim > 1}
    deployed(model)
    state = model.state_dict()
    left = {name for name in latent if name in state and state[name].is_floating_point()}
    assert left == {"pos_embed", "cls_token"}, "what stays float"
    for name, module in coded_modules(model):
        assert state[f"{name}.{entry_of(module)}"].dtype == torch.int8
        assert (state[f"{name}.weight_quantizer.scale"] >= 0).all()
        quantizer = getattr(module, "input_quantizer", None)
        if isinstance(module, QuantLinear) and quantizer is not None:
            assert quantizer.after is None and quantizer.before is not None
    assert not any(parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
def test_the_sign_of_an_image_stays_as_training_found_it() -> None:
    model, _ = prepared(weight="statsq")
    deployed(model)
    quantizer = model.patch_embed.proj.input_quantizer
    assert quantizer.signed is True and quantizer.negative_seen is None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(pictures(4).abs())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("switches", [{"weight": "statsq"}, {"weight": "lsq", "qkr": True}], ids=name_of)
@pytest.mark.parametrize("kind", ["trained", "deployed"])
@torch.no_grad()
def test_torch_exports_both(switches: dict[str, Any], kind: str) -> None:
    model, _ = prepared(**switches)
    images = pictures(4)
    expected = model(images)
    if kind == "deployed":
        deployed(model)
    traced = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(traced(images), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("switches", KINDS, ids=name_of)
@pytest.mark.parametrize("bits", [2, 3, 4])
@torch.no_grad()
def test_products_of_integers_with_steps_behind_them_are_the_layers(switches: dict[str, Any], bits: int) -> None:
    """y = step_x*step_w*(codes_x*(2 codes_w + 1))/2 + bias, the product being of integers, exactly."""
    model, _ = prepared(**switches, weight_bits=bits, input_bits=bits)
    plain = copy.deepcopy(model)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in plain.named_modules():
        if isinstance(module, QuantLinear) and module.input_quantizer is not None:
            # The layer as the paper writes it: floats that are rounded, and multiplied as floats.
            def watched(layer: nn.Module, x: tuple[Tensor], y: Tensor, name: str = name) -> None:
                quantized = F.linear(layer.input_quantizer(x[0]), layer.quantized_weight(), layer.bias)
                seen[name] = x[0], quantized

            module.register_forward_hook(watched)
    plain(pictures(8))
    deployed(model)
    assert len(seen) == sum(
        isinstance(each, QuantLinear) and each.input_quantizer is not None for each in model.modules()
    )
    for name, (x, expected) in seen.items():
        layer = model.get_submodule(name)
        stored, rounded = layer.weight_quantizer, layer.input_quantizer.rounded(x)
        codes = (2 * layer.weight.long() + int(2 * stored.offset)).t()  # (in, out), halves made whole
        dots = torch.matmul(rounded.codes.long(), codes)
        y = dots * (rounded.step * (stored.scale / 2)) + layer.bias
        torch.testing.assert_close(y, expected, atol=3e-6, rtol=3e-6, msg=name)


class TwiceAsWide(Quantizer):
    """A quantizer whose levels are not on the grid that its codes and step name."""

    def step(self, w: Tensor) -> Tensor:
        return w.abs().mean(1)

    def rounded(self, x: Tensor) -> Any:
        found = super().rounded(x)
        return found._replace(values=2 * found.values)


class StepEach(Quantizer):
    """A quantizer with a step for each weight."""

    axis = (0, 1)

    def step(self, w: Tensor) -> Tensor:
        return w.abs().flatten() + 0.1


@pytest.mark.parametrize(
    ("quantizer", "told"),
    [
        (TwiceAsWide(2), r"blocks\.0\.mlp\.fc1 has levels that are not step\*\(code \+ offset\)"),
        (StepEach(2), r"blocks\.0\.mlp\.fc1 has 288 steps for 24 rows; one a row, or one, can be stored"),
    ],
)
def test_levels_that_cannot_be_stored_are_refused_by_name(quantizer: Quantizer, told: str) -> None:
    model, _ = prepared(weight="statsq")
    model.blocks[0].mlp.fc1.weight_quantizer = quantizer
    with pytest.raises(ValueError, match=told):
        deployed(model)


def test_what_is_not_quantized_or_unknown_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no quantized weights"):
        deployed(create_model("vit_tiny_patch16_224", depth=1, embed_dim=12, num_heads=2))
    model, _ = prepared(weight="statsq")
    model.blocks[0].mlp.act = nn.Sequential(StoredStep(2, torch.ones(1), 0.0))
    with pytest.raises(ValueError, match=r"blocks\.0\.mlp\.act is a Sequential, whose quantizers cannot be stored"):
        deployed(model)
