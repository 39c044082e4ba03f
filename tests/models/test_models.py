"""Models are built or refused in one line, and weights are loaded all together or not at all."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from ofq.config.settings import ModelSettings
from ofq.errors import UserError
from ofq.models.backbone import build
from ofq.models.weights import load_weights
from ofq.quant import QuantConfig, calibrate, quantize_model
from tests.quant.small import small_model

SIZES: dict[str, Any] = {"image_size": (8, 8), "channels": 1, "classes": 5, "seed": 0}


@pytest.mark.parametrize("name", ["mobilenetv2_035", "resnet18", "nfnet_l0", "hrnet_w18_small"])
def test_a_convolutional_network_is_built_for_images_of_any_size(name: str) -> None:
    model = build(ModelSettings(timm=name), **SIZES)
    assert model.eval()(torch.rand(2, 1, 32, 32)).shape == (2, 5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = timm.create_model(name, in_chans=1, num_classes=5).state_dict()
    assert all(torch.equal(value, plain[entry]) for entry, value in model.state_dict().items())


def test_a_wrong_argument_of_a_convolutional_network_is_one_line() -> None:
    with pytest.raises(UserError, match=r"timm cannot build resnet18 with .*'no_such'"):
        build(ModelSettings(timm="resnet18", arguments={"no_such": 1}), **SIZES)


VIT: dict[str, Any] = {"timm": "vit_tiny_patch16_224", "arguments": {"patch_size": 4, "embed_dim": 9, "depth": 1}}


def test_attributes_of_its_modules_are_set_and_its_weights_stay() -> None:
    changes: dict[str, Any] = {"patch_embed.proj.padding": [1, 0], "blocks.0.attn.fused_attn": False, "norm.eps": 1}
    changed, plain = build(ModelSettings(**VIT, set=changes), **SIZES), build(ModelSettings(**VIT), **SIZES)
    assert changed.patch_embed.proj.padding == (1, 0) and changed.patch_embed.proj.stride == (4, 4)
    assert changed.blocks[0].attn.fused_attn is False and changed.norm.eps == 1.0
    pairs = zip(changed.state_dict().items(), plain.state_dict().items(), strict=True)
    assert all(one[0] == other[0] and torch.equal(one[1], other[1]) for one, other in pairs)
    assert ModelSettings(**VIT).model_dump(exclude_none=True) == VIT


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("patch_embd.proj.stride", 1, "unknown module of vit_tiny_patch16_224 'patch_embd.proj'; did you mean 'patch_embed.proj'"),
        ("patch_embed.proj.strid", 1, "unknown attribute of a Conv2d that can be set: 'strid'; did you mean 'stride'?"),
        ("patch_embed.proj.kernel_size", 2, "unknown attribute of a Conv2d that can be set: 'kernel_size'"),
        ("patch_embed.proj.groups", 1, "unknown attribute of a Conv2d that can be set: 'groups'"),
        ("patch_embed.proj.weight", 1, "unknown attribute of a Conv2d"),
        ("patch_embed.proj.stride", 4, r"set.patch_embed.proj.stride of a model: is 4 already; leave it out"),
        ("patch_embed.proj.stride", 0, "should be a whole number from 1 on, or 2 of them, not 0"),
        ("patch_embed.proj.stride", True, "should be a whole number from 1 on, or 2 of them, not True"),
        ("patch_embed.proj.stride", [1, 1, 1], r"or 2 of them, not \[1, 1, 1\]"),
        ("patch_embed.proj.padding", "same", "or 2 of them, not same"),
        ("head.in_features", 9, "unknown attribute of a Linear that can be set: 'in_features'; known: none"),
        ("norm.training", False, "unknown attribute of a LayerNorm that can be set: 'training'; known: "),
        ("norm._parameters", 1, "unknown attribute of a LayerNorm"),
        ("norm.elementwise_affine", False, "unknown attribute of a LayerNorm"),
        ("num_classes", 1, "unknown module of vit_tiny_patch16_224 ''"),
        ("norm.forward", 1, "unknown attribute of a LayerNorm"),
        ("norm.eps", "small", "is 1e-06 and should be of type float, not small"),
        ("blocks.0.attn.num_heads", 1.5, "is 3 and should be of type int, not 1.5"),
    ],
)  # fmt: skip
def test_an_attribute_that_cannot_be_set_is_one_line(path: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        build(ModelSettings(**VIT, set={path: value}), **SIZES)
    assert "mend it under models in params.yaml" in str(caught.value)


def quantized() -> Any:
    model = quantize_model(small_model(), QuantConfig(weight="lsq"))
    calibrate(model, torch.rand(2, 1, 8, 8))
    return model


def last_of(state: dict[str, Tensor]) -> str:
    return list(state)[-1]


WRONG: dict[str, tuple[Any, str]] = {
    "another shape": (lambda state: state | {last_of(state): torch.zeros(7)}, "belongs to another model: .* does not"),
    "one more": (lambda state: state | {"more": torch.zeros(1)}, "belongs to another model: more does not match"),
    "one less": (lambda state: {k: v for k, v in state.items() if k != last_of(state)}, "belongs to another model"),
    "no number": (lambda state: state | {last_of(state): state[last_of(state)] * float("nan")}, "that are not finite"),
    "infinite": (lambda state: state | {"head.bias": torch.full((5,), float("inf"))}, "in head.bias that are not"),
}


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize(("damage", "message"), WRONG.values(), ids=WRONG)
def test_weights_that_are_refused_change_nothing(tmp_path: Path, damage: Any, message: str, calibrated: bool) -> None:
    path = tmp_path / "model.safetensors"
    save_file(damage(quantized().state_dict()), path)
    model = quantized() if calibrated else quantize_model(small_model(), QuantConfig(weight="lsq"))
    for parameter in model.blocks.parameters():
        if parameter.numel():
            torch.nn.init.constant_(parameter, 0.5)
    before = {name: value.tolist() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=message):
        load_weights(model, path)
    assert {name: value.tolist() for name, value in model.state_dict().items()} == before
