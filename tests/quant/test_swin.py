"""Swin transformers: conversion, windows, what the released code does otherwise, and what is refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models.swin_transformer import WindowAttention as TimmAttention
from torch import Tensor, nn

from ofq.models.backbone import draw_attention
from ofq.quant import QuantConfig, block_weights, calibrate, quantize_model
from ofq.quant.convert import family_of
from ofq.quant.families.swin import SwinTransformers
from ofq.quant.modules.window import QKRWindowAttention, WindowAttention
from ofq.quant.weights import record_codes
from ofq.remedies import ConfidenceGuidedAnnealing, FrozenWeights, governed_layers
from tests.quant.small import KINDS, name_of, small_swin, train_step
from tests.quant.test_refusals import Own, everything, put

BLOCKS = ["layers.0.blocks.0", "layers.0.blocks.1", "layers.1.blocks.0"]


@pytest.fixture
def make(switches: dict[str, Any], images: Tensor) -> Callable[[], Any]:
    def build() -> nn.Module:
        model = quantize_model(small_swin(), QuantConfig(**switches))
        calibrate(model, [images])
        return model

    return build


@pytest.mark.parametrize("qkr", [False, True])
def test_conversion_keeps_the_parameters_and_their_names(qkr: bool) -> None:
    model: Any = small_swin()
    before, random = dict(model.named_parameters()), torch.get_rng_state()
    quantize_model(model, QuantConfig(qkr=qkr))
    assert torch.equal(torch.get_rng_state(), random)
    after = dict(model.named_parameters())
    kept = {name for name in before if not (qkr and ".qkv." in name)}
    assert all(after[name] is before[name] for name in kept)
    assert {name.rsplit(".", 1)[-1] for name in after.keys() - kept if ".q." not in name} >= {"scale", "before"}
    assert "layers.0.blocks.0.attn.relative_position_bias_table" in kept
    assert model.layers[1].downsample.reduction.bias is None


@pytest.mark.parametrize("qkr", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"img_size": (7, 10), "depths": (2, 2)}, {"window_size": 3}, {"window_size": 16}, {"head_dim": 3}],
    ids=str,
)
def test_without_quantizers_it_computes_what_timm_does(arguments: dict[str, Any], qkr: bool) -> None:
    """Windows, shifts, masks and positions of every kind of map, quantization apart."""
    model: Any = small_swin(**arguments, qkv_bias=not qkr).double()  # the biases of q and k are dropped
    for module in model.modules():
        if isinstance(module, TimmAttention):
            nn.init.normal_(module.relative_position_bias_table)
    images = torch.rand(3, 1, *model.patch_embed.img_size, dtype=torch.float64)
    expected = model.eval()(images)
    quantize_model(model, QuantConfig(qkr=qkr))
    for module in list(model.modules()):
        for name in [name for name in vars(module)["_modules"] if name.endswith("_quantizer")]:
            setattr(module, name, None)
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize("switches", KINDS, ids=name_of)
def test_block_weights_are_all_low_bit_weights_in_order(switches: dict[str, Any], images: Tensor) -> None:
    model = quantize_model(small_swin(), QuantConfig(weight_bits=3, **switches))
    calibrate(model, [images])
    weights = block_weights(model)
    inside = [*(["qk", "v"] if switches.get("qkr") else ["q", "k", "v"]), "proj", "fc1", "fc2"]
    assert [weight.group for weight in weights] == [*inside * 2, "reduction", *inside]
    assert [weight.block for weight in weights] == [0] * len(inside) + [1] * len(inside) + [2] * (len(inside) + 1)
    assert weights[2 * len(inside)].name == "layers.1.downsample.reduction"
    assert weights[-1].name == "layers.1.blocks.0.mlp.fc2"
    record_codes(model)
    model.train()(images)
    assert all(weight.bits == 3 and torch.equal(weight.last_codes(), weight.codes()) for weight in weights)
    edges: Any = model
    assert edges.patch_embed.proj.weight_quantizer.bits == edges.head.fc.weight_quantizer.bits == 8


def test_steps_belong_to_positions_of_the_window_and_of_the_map(images: Tensor) -> None:
    model: Any = quantize_model(small_swin(), QuantConfig())
    calibrate(model, [images])
    first, merging, second = model.layers[0].blocks[1], model.layers[1].downsample, model.layers[1].blocks[0]
    assert first.attn.qkv.input_quantizer.scale.numel() == first.attn.probability_quantizer.scale.numel() == 16
    assert first.attn.qk_quantizer.scale.numel() == 2 * 16 and first.attn.v_quantizer.scale.numel() == 8
    assert first.mlp.fc1.input_quantizer.scale.numel() == 64 and second.mlp.fc2.input_quantizer.scale.numel() == 16
    assert merging.reduction.input_quantizer.scale.numel() == 16


def test_the_released_code_has_steps_by_column_and_biases_of_mergings(images: Tensor) -> None:
    config = QuantConfig(map_steps="column", merging_bias=True)
    model: Any = small_swin(img_size=(4, 8))
    weight = model.layers[1].downsample.reduction.weight
    quantize_model(model, config)
    calibrate(model, [images[:, :, :4]])
    first, merging, second = model.layers[0].blocks[1], model.layers[1].downsample, model.layers[1].blocks[0]
    assert [first.mlp.fc1.input_quantizer.scale.numel(), first.mlp.fc2.input_quantizer.scale.numel()] == [8, 8]
    assert [merging.reduction.input_quantizer.scale.numel(), second.mlp.fc1.input_quantizer.scale.numel()] == [4, 4]
    assert merging.reduction.weight is weight and 0 < merging.reduction.bias.abs().max() <= 32**-0.5
    torch.manual_seed(1)
    other: Any = quantize_model(small_swin(), config)
    assert not torch.equal(other.layers[1].downsample.reduction.bias, merging.reduction.bias)


def test_every_parameter_gets_a_finite_gradient_in_every_precision(
    make: Callable[[], Any], images: Tensor, labels: Tensor
) -> None:
    for enabled in (False, True):
        model = make()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_a_fresh_model_loads_a_checkpoint_strictly(make: Callable[[], Any], images: Tensor, switches: Any) -> None:
    model = make().eval()
    fresh = quantize_model(small_swin(), QuantConfig(**switches))
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh.eval()(images), model(images))
    assert torch.equal(copy.deepcopy(model)(images), model(images))


def test_a_quantized_model_belongs_to_one_family(make: Callable[[], Any]) -> None:
    model = make()
    assert isinstance(family_of(model), SwinTransformers)
    assert len({weight.name for weight in block_weights(model)}) == len(block_weights(model))


@pytest.mark.parametrize("switches", KINDS, ids=name_of)
def test_annealing_holds_what_is_confident_and_freezing_everything(
    switches: dict[str, Any], images: Tensor, labels: Tensor
) -> None:
    qkr = switches.get("qkr", False)
    for kind in (ConfidenceGuidedAnnealing, FrozenWeights):
        model = quantize_model(small_swin(), QuantConfig(**switches))
        calibrate(model, [images])
        inside = ["attn.v" if qkr else "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
        names = [f"{block}.{part}" for block in BLOCKS for part in inside]
        assert sorted(governed_layers(model)) == sorted([*names, "layers.1.downsample.reduction"])
        remedy: Any = kind(model, 0.05) if kind is ConfidenceGuidedAnnealing else kind(model)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        step = optimizer.step

        def held(closure: Any = None, remedy: Any = remedy, step: Any = step) -> None:
            remedy.before_update(1e-3)
            step()
            remedy.after_update(1e-3)

        optimizer.step = held  # type: ignore[method-assign]
        train_step(model, optimizer, images, labels)
        after = model.state_dict()
        for name in governed_layers(model):
            moved = (after[f"{name}.weight"] != before[f"{name}.weight"]).float().mean()
            assert (moved == 0) if kind is FrozenWeights else (moved < 0.5), name
        if qkr:
            still = [f"{block}.attn.{side}.weight" for block in BLOCKS for side in "qk"]
            assert all(torch.equal(after[name], before[name]) for name in still)
        free = [*(f"{block}.attn.relative_position_bias_table" for block in BLOCKS), "head.fc.weight"]
        assert not any(torch.equal(after[name], before[name]) for name in free)


@pytest.mark.parametrize("keep_qkv", [False, True])
def test_the_released_start_draws_projections_and_positions_anew(keep_qkv: bool) -> None:
    model = small_swin()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    draw_attention(model, 3, keep_qkv=keep_qkv)
    different = {
        name.split("attn.")[-1] for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    drawn = {"proj.weight", "proj.bias", "relative_position_bias_table"}
    assert different == drawn | (set() if keep_qkv else {"qkv.weight", "qkv.bias"})
    tables = [value for name, value in model.named_parameters() if name.endswith("bias_table")]
    assert 0.015 < torch.cat([table.flatten() for table in tables]).std() < 0.025


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a head of its own": (put("head.fc", lambda: Own(16, 5)), r"head\.fc is Own"),
    "another head": (put("head", lambda: nn.Linear(16, 5)), "head would stay in full precision"),
    "another attention": (put("layers.0.blocks.1.attn", lambda: nn.MultiheadAttention(8, 2)), r"blocks\.1\.attn would stay"),
    "a merging of its own": (put("layers.1.downsample.reduction", lambda: Own(32, 16)), r"downsample\.reduction is Own"),
    "another merging": (put("layers.1.downsample", lambda: nn.Conv2d(8, 16, 2, 2)), r"layers\.1\.downsample would stay"),
    "a projection of its own": (put("layers.1.blocks.0.attn.qkv", lambda: Own(16, 48)), r"attn\.qkv is Own"),
    "another mlp": (put("layers.0.blocks.0.mlp", lambda: nn.Linear(8, 8)), r"blocks\.0\.mlp would stay"),
    "one of another kind": (put("layers.0.blocks.0.attn", lambda: timm.layers.Attention(8, 2)), r"attn\.qkv would stay"),
    "overlapping patches": (put("patch_embed.proj", lambda: nn.Conv2d(1, 8, 3, 1, 1)), r"patch_embed\.proj"),
}  # fmt: skip


@pytest.mark.parametrize("qkr", [False, True])
@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_what_cannot_be_quantized_is_named_and_changes_nothing(
    change: Callable[[Any], Any], message: str, qkr: bool
) -> None:
    model = small_swin()
    change(model)
    before = everything(model)
    with pytest.raises(ValueError, match=message) as caught:
        quantize_model(model, QuantConfig(qkr=qkr))
    assert "\n" not in str(caught.value)
    assert everything(model) == before


@pytest.mark.parametrize(
    ("arguments", "option"),
    [({"dynamic_img_size": True}, "dynamic_img_size"), ({"strict_img_size": False}, "strict_img_size")],
)
def test_images_of_any_size_are_refused(arguments: dict[str, Any], option: str) -> None:
    with pytest.raises(ValueError, match=option):
        quantize_model(small_swin(**arguments), QuantConfig())


@pytest.mark.parametrize("name", ["swinv2_tiny_window8_256", "swinv2_cr_tiny_224"])
def test_the_second_version_is_refused_by_name(name: str) -> None:
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match=r"SwinTransformer, and .*; SwinTransformerV2\w* is none of these"),
    ):
        quantize_model(timm.create_model(name), QuantConfig())


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swin_large_patch4_window12_384", "swin_s3_base_224"])
@pytest.mark.parametrize("qkr", [False, True])
def test_models_of_every_size_are_converted_whole(name: str, qkr: bool) -> None:
    with torch.device("meta"):
        model = quantize_model(timm.create_model(name), QuantConfig(qkr=qkr))
    attentions = [module for module in model.modules() if isinstance(module, WindowAttention | QKRWindowAttention)]
    assert len({weight.block for weight in block_weights(model)}) == len(attentions) >= 12
    assert sum(weight.group == "reduction" for weight in block_weights(model)) == 3


def test_a_replaced_head_is_refused_by_the_next_pass(images: Tensor) -> None:
    model: Any = quantize_model(small_swin(), QuantConfig())
    model.reset_classifier(3)
    with pytest.raises(ValueError, match=r"head\.fc would compute in full precision"):
        model(images)
