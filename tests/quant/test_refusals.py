"""What is refused leaves a model exactly as it was; no layer computes in full precision without a word."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import Attention, Mlp
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from ofq.errors import UserError
from ofq.quant import LSQQuantizer, QuantConfig, StatsQuantizer, block_weights, calibrate, quantize_model
from ofq.quant.families.vit import VisionTransformers
from ofq.quant.modules.qkr import QKRAttention
from tests.quant.small import KINDS, name_of, small_model


def everything(model: nn.Module) -> list[Any]:
    """Identity of modules, parameters and buffers by name, their values and flags."""
    return [
        [(name, id(module), module.training) for name, module in model.named_modules()],
        [(name, id(each), each.requires_grad) for name, each in model.named_parameters()],
        [(name, id(each)) for name, each in model.named_buffers()],
        [(name, value.tolist()) for name, value in model.state_dict().items()],
        list(model._forward_pre_hooks),
    ]


class Own(nn.Linear):
    """A linear layer that computes in a way of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def put(path: str, layer: Callable[[], nn.Module]) -> Callable[[Any], None]:
    """A change that puts a layer into a model."""
    return lambda model: model.set_submodule(path, layer())


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "overlapping patches": (put("patch_embed.proj", lambda: nn.Conv2d(1, 16, 4, stride=2)), r"patch_embed\.proj"),
    "patches by no convolution": (put("patch_embed.proj", nn.Identity), r"patch_embed\.proj"),
    "a patch layer around another": (put("patch_embed", lambda: nn.Sequential(nn.Conv2d(1, 16, 4, 4))), r"embed\.0 "),
    "a norm that multiplies": (put("norm", lambda: nn.Linear(16, 16)), "norm would stay"),
    "another mlp": (put("blocks.1.mlp", lambda: nn.Sequential(nn.Linear(16, 16))), r"blocks\.1\.mlp\.0 would stay"),
    "torch's attention": (put("blocks.0.drop_path1", lambda: nn.MultiheadAttention(16, 2)), r"drop_path1 would stay"),
    "a bilinear layer": (put("blocks.0.ls1", lambda: nn.Bilinear(16, 16, 16)), r"blocks\.0\.ls1 would stay"),
    "two layers as a head": (put("head", lambda: nn.Sequential(nn.Linear(16, 5))), "head is Sequential"),
    "a head of its own": (put("head", lambda: Own(16, 5)), "head is Own"),
    "a projection of its own": (put("blocks.1.attn.proj", lambda: Own(16, 16)), r"blocks\.1\.attn\.proj is Own"),
    "a weight that is computed": (lambda model: parametrizations.weight_norm(model.head), "weight is computed"),
    "pruned": (lambda m: prune.l1_unstructured(m.blocks[0].mlp.fc2, "weight", 3), r"blocks\.0\.mlp\.fc2 is one"),
}


@pytest.mark.parametrize("qkr", [False, True])
@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_what_cannot_be_quantized_is_named_and_changes_nothing(
    change: Callable[[Any], Any], message: str, qkr: bool
) -> None:
    model = small_model()
    change(model)
    model.blocks[0].eval()
    model.blocks[1].mlp.requires_grad_(False)
    before = everything(model)
    with pytest.raises(ValueError, match=message) as caught:
        quantize_model(model, QuantConfig(qkr=qkr))
    assert "\n" not in str(caught.value) or isinstance(model.head, nn.Sequential)
    assert everything(model) == before


def test_a_stem_of_convolutions_is_named() -> None:
    model = timm.create_model("vit_tiny_r_s16_p8_224", img_size=32, embed_dim=24, depth=1, num_heads=2)
    before = everything(model)
    with pytest.raises(ValueError, match=r"patch_embed\.backbone\.conv would stay in full precision"):
        quantize_model(model, QuantConfig())
    assert everything(model) == before


def test_a_layer_beside_the_supported_parts_is_named() -> None:
    parts = {"attn": Attention(8, num_heads=2), "mlp": Mlp(8), "last": nn.Linear(8, 3)}
    with pytest.raises(ValueError, match="last would stay"):
        quantize_model(nn.ModuleDict(parts), QuantConfig())
    del parts["last"]
    quantize_model(
        nn.ModuleDict(parts | {"positions": nn.Embedding(4, 8), "norm": nn.LayerNorm((4, 8))}), QuantConfig()
    )


FUSSY = """
from ofq.quant import StatsQuantizer
made = []

class Fussy(StatsQuantizer):
    def __init__(self, bits):
        made.append(bits)
        if len(made) > 5:
            raise ERROR("enough")
        super().__init__(bits)
"""


@pytest.mark.parametrize(
    ("error", "told"), [("ValueError", UserError), ("TypeError", UserError), ("KeyError", KeyError)]
)
def test_a_quantizer_that_cannot_be_made_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, told: type[Exception]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"fussy_{error}.py").write_text(FUSSY.replace("ERROR", error))
    model = small_model()
    before = everything(model)
    with pytest.raises(told, match="enough"):
        quantize_model(model, QuantConfig(weight=f"fussy_{error}:Fussy"))
    assert everything(model) == before


def test_a_bias_of_another_dtype_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    model.head.bias.data = model.head.bias.data.double()
    model.blocks[0].attn.proj.bias.data = model.blocks[0].attn.proj.bias.data.double()
    before = everything(model)
    monkeypatch.setattr("ofq.quant.convert.full_precision_layers", lambda *arguments: [("anything", nn.Linear(1, 1))])
    with pytest.raises(ValueError, match="anything would stay"):
        quantize_model(model, QuantConfig())
    assert everything(model) == before


@pytest.mark.parametrize(("model", "config"), [("vit_tiny_patch16_224", QuantConfig()), (small_model(), {})])
def test_another_argument_is_one_line(model: Any, config: Any) -> None:
    with pytest.raises(ValueError, match="takes a model and a QuantConfig, not a"):
        quantize_model(model, config)


LATER: dict[str, tuple[Callable[[Any], Any], str]] = {
    "other classes": (lambda model: model.reset_classifier(7), "head would compute in full precision"),
    "other patches": (lambda model: model.set_input_size(patch_size=2), r"patch_embed\.proj would compute"),
    "other images": (lambda model: model.set_input_size(img_size=16), r"move biases of shape \(8, 8\) do not fit"),
    "another block": (
        lambda model: model.blocks.append(copy.deepcopy(small_model().blocks[0])),
        r"blocks\.2\.attn\.qkv",
    ),
    "another layer": (put("blocks.0.mlp.fc1", lambda: nn.Linear(16, 32)), r"blocks\.0\.mlp\.fc1 would compute"),
    "a computed weight": (
        put("blocks.0.mlp.fc1", lambda: parametrizations.weight_norm(nn.Linear(16, 32, bias=False))),
        r"blocks\.0\.mlp\.fc1 would compute",
    ),
}


@pytest.mark.parametrize("switches", KINDS[-2:], ids=name_of)
@pytest.mark.parametrize(("change", "message"), LATER.values(), ids=LATER)
def test_a_layer_that_is_replaced_later_is_named_at_once(
    change: Callable[[Any], Any], message: str, switches: dict[str, Any], images: Tensor
) -> None:
    model: Any = quantize_model(small_model(), QuantConfig(**switches))
    fresh = copy.deepcopy(model)
    calibrate(model, images)
    twin = copy.deepcopy(model)
    for each in (fresh, twin, model):
        change(each)
        wanted = torch.rand(2, 1, *each.patch_embed.img_size)
        with pytest.raises(ValueError, match=message):
            calibrate(each, wanted) if each is fresh else each(wanted)
        with pytest.raises(ValueError, match=message):
            each.forward_features(wanted)


def test_a_model_without_a_head_goes_on(images: Tensor) -> None:
    model: Any = quantize_model(small_model(), QuantConfig())
    calibrate(model, images)
    model.reset_classifier(0)
    assert model(images).shape == (6, 16)


def test_the_layers_that_are_looked_for_are_those_that_are_made() -> None:
    """W_q and W_k alone stay plain under query-key reparameterization."""
    model = small_model()
    made = VisionTransformers().convert(model, QuantConfig(qkr=True))
    assert len(made) == 2 + 2 * 3 and all(getattr(parent, name) is not layer for (parent, name), layer in made.items())
    plain = [name for each in made.values() for name, child in each.named_modules() if type(child) is nn.Linear]
    assert plain == ["q", "k"] * 2 and sum(isinstance(each, QKRAttention) for each in made.values()) == 2


def looked_at(model: nn.Module) -> list[Any]:
    return [*everything(model), [parameter.is_floating_point() for parameter in model.parameters()]]


def raising() -> Iterator[Tensor]:
    yield -torch.ones(2, 1, 8, 8)
    raise OSError("disk")


IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)) - 0.5
NAN, INFINITE = IMAGES.clone(), IMAGES.clone()
NAN[2, 0, 3, 3], INFINITE[0, 0, 0, 0] = float("nan"), -float("inf")
BATCHES: dict[str, tuple[Any, str]] = {
    "not a number": (NAN, "batch 0 holds values that are not finite"),
    "infinite": ([IMAGES, (INFINITE, None)], "batch 1 holds values that are not finite"),
    "single images": ([IMAGES, *IMAGES], r"does not take batch 1, torch\.float32 \(1, 8, 8\) on cpu"),
    "a pair alone": ((IMAGES, torch.arange(4)), r"does not take batch 1, torch\.int64 \(4,\)"),
    "a mapping": ([{"image": IMAGES}], r"batch 0 gives a dict; a tensor of images, or a pair"),
    "a mapping alone": ({"image": IMAGES}, "batch 0 gives a str"),
    "arrays": ([IMAGES.numpy()], "batch 0 gives a ndarray"),
    "an empty pair": ([IMAGES, ()], "batch 1 gives a tuple"),
    "another size": ([IMAGES, torch.rand(2, 1, 16, 16)], r"batch 1, torch\.float32 \(2, 1, 16, 16\)"),
    "another dtype": ([IMAGES.double()], r"batch 0, torch\.float64 .* same dtype"),
    "nothing": (None, "takes batches of images, not a NoneType"),
    "no images": ([IMAGES[:0]], "no batches with images"),
    "broken": (raising(), "disk"),
}


@pytest.mark.parametrize(("batches", "message"), BATCHES.values(), ids=BATCHES)
def test_a_calibration_that_is_refused_changes_nothing(batches: Any, message: str) -> None:
    model: Any = quantize_model(small_model(), QuantConfig(weight="lsq")).train()
    model.blocks[0].mlp.eval()
    model.blocks[0].mlp.fc1.weight_quantizer.scale.requires_grad_(False)
    before = looked_at(model)
    with pytest.raises((ValueError, OSError, RuntimeError), match=message) as caught:
        calibrate(model, batches)
    assert "\n" not in str(caught.value)
    assert looked_at(model) == before
    parameters = {name: id(parameter) for name, parameter in model.named_parameters()}
    calibrate(model, IMAGES)
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == parameters


@pytest.mark.parametrize("name", ["head.weight", "blocks.1.attn.qkv.bias", "pos_embed"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(name: str, value: float) -> None:
    model = quantize_model(small_model(), QuantConfig())
    dict(model.named_parameters())[name].data.view(-1)[3] = value
    before = everything(model)[:3]
    with pytest.raises(ValueError, match=rf"{name.replace('.', chr(92) + '.')} of the model holds values"):
        calibrate(model, IMAGES)
    assert everything(model)[:3] == before and not any("scale" in key for key in model.state_dict())


def test_a_step_that_would_not_be_finite_is_named() -> None:
    model: Any = quantize_model(small_model(), QuantConfig())
    model.blocks[0].norm1.weight.data.fill_(3e38)
    with pytest.raises(ValueError, match=r"input of blocks\.0\.attn.* is not finite, although the batches are"):
        calibrate(model, IMAGES)
    assert not any("scale" in key for key in model.state_dict())


@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_there_are_no_codes_of_what_is_not_finite(value: float) -> None:
    w = torch.tensor([[0.5, value, -1.0]])
    lsq = LSQQuantizer(2)
    calibrate(lsq, w[:, :1])
    for quantizer in (StatsQuantizer(2), lsq):
        with pytest.raises(ValueError, match="no codes of values that are not finite"):
            quantizer.codes(w)


def test_one_tensor_a_generator_and_pairs_are_the_same_batches() -> None:
    forms: list[Any] = [
        IMAGES,
        (batch for batch in [IMAGES, IMAGES[:0]]),
        [(IMAGES, torch.arange(4))],
        [[IMAGES, torch.arange(4)], (IMAGES[:0], torch.arange(0))],
    ]
    states = []
    for batches in forms:
        model = quantize_model(small_model(), QuantConfig(weight="lsq"))
        calibrate(model, batches)
        states.append(model.state_dict())
    for state in states[1:]:
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())


def test_parameters_can_be_counted_before_calibration() -> None:
    """Steps that are not there yet count as none; whatever else is asked of them is one line."""
    model = quantize_model(small_model(), QuantConfig())
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == sum(parameter.nelement() for parameter in model.parameters())
    scales = [parameter for name, parameter in model.named_parameters() if name.endswith("scale")]
    asked: list[Callable[[Tensor], Any]] = [lambda p: p.shape, lambda p: p + 1, lambda p: p.norm(), torch.isfinite]
    for ask in asked:
        with pytest.raises(RuntimeError, match=r"has no step yet: call ofq\.quant\.calibrate") as caught:
            ask(scales[0])
        assert "\n" not in str(caught.value)
    calibrate(model.requires_grad_(False).bfloat16().float().requires_grad_(True), IMAGES)
    steps = sum(parameter.numel() for parameter in scales)
    assert steps > 0 and sum(parameter.numel() for parameter in model.parameters()) == counted + steps
    assert len(block_weights(model)) == 12
