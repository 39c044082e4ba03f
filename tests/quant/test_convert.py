"""Conversion by type, calibration, and what both refuse."""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from timm.layers import Attention
from timm.models import VisionTransformerDistilled
from torch import Tensor, nn

from ofq.quant import QuantConfig, block_weights, calibrate, quantize_model
from ofq.quant.modules.conv import QuantConv2d
from ofq.quant.modules.linear import QuantLinear
from ofq.quant.modules.qkr import Projections, QKRAttention, QKRQuantizers
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.lsq import LSQQuantizer
from ofq.quant.weights import record_codes
from tests.quant.small import KINDS, name_of, small_model


def test_plain_conversion_keeps_the_parameters_and_their_names() -> None:
    model = small_model()
    before = dict(model.named_parameters())
    assert quantize_model(model, QuantConfig()) is model
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    added = {name.rsplit(".", 1)[-1] for name in after.keys() - before.keys()}
    assert added == {"scale", "before", "after"}


def test_qkr_conversion_takes_its_values_from_the_rows_of_qkv() -> None:
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    nn.init.normal_(model.blocks[1].attn.qkv.bias)
    weight, bias = model.blocks[1].attn.qkv.weight.clone(), model.blocks[1].attn.qkv.bias.clone()
    quantize_model(model, QuantConfig(qkr=True))
    attention = model.blocks[1].attn
    assert torch.equal(torch.cat([attention.q.weight, attention.k.weight, attention.v.weight]), weight)
    assert torch.equal(attention.v.bias, bias[32:])
    after = model.state_dict()
    untouched = {name for name in before if ".qkv." not in name}
    assert all(torch.equal(after[name], before[name]) for name in untouched)
    names = {name for name in after if name.startswith("blocks.1.attn.")}
    assert {f"blocks.1.attn.{n}" for n in ("q.weight", "k.weight", "v.weight", "v.bias", "proj.weight")} <= names
    assert not {"blocks.1.attn.q.bias", "blocks.1.attn.k.bias"} & names


def test_conversion_keeps_a_missing_bias_missing() -> None:
    for qkr in (False, True):
        model = quantize_model(small_model(qkv_bias=False), QuantConfig(qkr=qkr))
        attention: Any = model.blocks[0].attn  # type: ignore[index, union-attr]
        assert (attention.v if qkr else attention.qkv).bias is None
        assert attention.proj.bias is not None


@pytest.mark.parametrize("switches", KINDS, ids=name_of)
def test_with_inputs_of_32_bits_weights_alone_are_quantized(switches: dict[str, Any]) -> None:
    model = quantize_model(small_model(), QuantConfig(**switches, weight_bits=3, input_bits=32))
    names = [name for name, module in model.named_modules() if isinstance(module, Quantizer)]
    assert names and all(name.endswith("weight_quantizer") for name in names)
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    calibrate(model, images)
    if switches.get("qkr"):
        return  # W_q and W_k are in full precision there, and only their product is rounded
    plain = small_model().eval()
    quantized = {
        f"{name}.weight": module.quantized_weight().detach()
        for name, module in model.named_modules()
        if isinstance(module, QuantLinear | QuantConv2d)
    }
    assert len(quantized) == 2 * 4 + 2
    plain.load_state_dict(plain.state_dict() | quantized)
    torch.testing.assert_close(model.eval()(images), plain(images))


def test_conversion_draws_no_random_numbers() -> None:
    model = small_model()
    state = torch.get_rng_state()
    quantize_model(model, QuantConfig(qkr=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_first_and_last_layers_have_the_bits_of_the_edge() -> None:
    model: Any = quantize_model(small_model(), QuantConfig(edge_bits=7))
    for layer in (model.patch_embed.proj, model.head):
        assert layer.weight_quantizer.bits == layer.input_quantizer.bits == 7
        assert isinstance(layer.weight_quantizer, LSQQuantizer)
    assert isinstance(model.patch_embed.proj, QuantConv2d) and model.patch_embed.proj.input_quantizer.signed == "detect"
    assert model.head.input_quantizer.axis is None


def test_only_gelu_and_relu_outputs_are_unsigned() -> None:
    for activation, signed in ((nn.GELU, False), (nn.ReLU, False), (nn.Tanh, True)):
        model: Any = quantize_model(small_model(act_layer=activation), QuantConfig())
        assert model.blocks[0].mlp.fc2.input_quantizer.signed is signed
        assert model.blocks[0].mlp.fc1.input_quantizer.signed is True


def test_dead_biases_exist_only_on_request() -> None:
    for qkr, owner in ((False, "qk_quantizer"), (True, "product_quantizer")):
        sizes = []
        for dead in (False, True):
            model: Any = quantize_model(small_model(), QuantConfig(qkr=qkr, dead_biases=dead))
            after = getattr(model.blocks[0].attn, owner).after
            sizes.append(0 if after is None else after.numel())
        assert sizes == ([0, 32] if qkr else [16, 32])


def test_every_quantized_module_names_its_quantizers(make: Callable[[], nn.Module]) -> None:
    for module in make().modules():
        if isinstance(module, QuantLinear | QuantConv2d | QKRAttention):
            for quantizer in (module.weight_quantizer, module.input_quantizer):
                assert quantizer is None or isinstance(quantizer, Quantizer)


def test_distilled_model_has_both_heads_converted(images: Tensor) -> None:
    model = VisionTransformerDistilled(
        img_size=8, patch_size=4, in_chans=1, num_classes=5, embed_dim=16, depth=1, num_heads=2
    )
    quantize_model(model, QuantConfig(qkr=True))
    assert isinstance(model.head, QuantLinear) and isinstance(model.head_dist, QuantLinear)
    calibrate(model, [images])
    model.set_distilled_training(True)
    assert len(model.train()(images)) == 2
    assert model.eval()(images).shape == (6, 5)


def test_qkr_equals_plain_attention_at_full_precision() -> None:
    torch.manual_seed(0)
    plain = Attention(12, num_heads=3, qkv_bias=False).double()
    q, k, v = plain.qkv.weight.detach().split(12)

    def linear(weight: Tensor, *, kind: type[nn.Linear]) -> Any:
        layer = kind(12, 12, bias=False).double()
        layer.weight = nn.Parameter(weight.clone())
        return layer

    proj = QuantLinear.from_linear(plain.proj, weight_quantizer=None, input_quantizer=None)
    layers = Projections(linear(q, kind=nn.Linear), linear(k, kind=nn.Linear), linear(v, kind=QuantLinear), proj)
    qkr = QKRAttention(3, layers, QKRQuantizers())
    x = torch.randn(2, 7, 12, dtype=torch.float64, requires_grad=True)
    twin = x.detach().clone().requires_grad_()
    torch.testing.assert_close(qkr(x), plain(twin), rtol=1e-12, atol=1e-12)
    qkr(x).square().sum().backward()
    plain(twin).square().sum().backward()
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        torch.cat([qkr.q.weight.grad, qkr.k.weight.grad, qkr.v.weight.grad]),
        plain.qkv.weight.grad,  # type: ignore[list-item]
    )


def test_attention_refuses_masks(make: Callable[[], nn.Module], images: Tensor) -> None:
    model: Any = make()
    tokens = torch.zeros(1, 5, 16)
    with pytest.raises(ValueError, match="attn_mask"):
        model.blocks[0].attn(tokens, attn_mask=torch.zeros(5, 5))
    with pytest.raises(ValueError, match="is_causal"):
        model.blocks[0].attn(tokens, is_causal=True)


def test_attention_dropout_is_kept(images: Tensor) -> None:
    model: Any = quantize_model(small_model(attn_drop_rate=0.5, proj_drop_rate=0.25), QuantConfig())
    assert model.blocks[0].attn.attn_drop.p == 0.5 and model.blocks[0].attn.proj_drop.p == 0.25
    calibrate(model, [images])
    model.train()
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize("qkr", [False, True])
def test_second_conversion_is_an_error(qkr: bool) -> None:
    model = quantize_model(small_model(), QuantConfig(qkr=qkr))
    with pytest.raises(ValueError, match="quantized already"):
        quantize_model(model, QuantConfig())


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ({"qk_norm": True}, "qk_norm"),
        ({"scale_attn_norm": True}, "scale_norm"),
        ({"global_pool": "map"}, "global_pool='map'"),
        ({"dynamic_img_size": True}, "dynamic_img_size"),
        ({"patch_drop_rate": 0.5}, "patch_drop_rate"),
    ],
)
def test_unsupported_options_are_named_and_nothing_is_converted(arguments: dict[str, Any], option: str) -> None:
    model = small_model(**arguments)
    with pytest.raises(ValueError, match=option):
        quantize_model(model, QuantConfig())
    assert not any(isinstance(module, Quantizer) for module in model.modules())


def test_layers_that_would_stay_float_are_an_error() -> None:
    model = small_model()
    model.blocks[1].mlp = nn.Sequential(nn.Linear(16, 16))  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.0 would stay in full precision"):
        quantize_model(model, QuantConfig())


@pytest.mark.parametrize("model", [nn.Linear(3, 3), Attention(8, num_heads=2)], ids=["linear", "bare attention"])
def test_a_model_without_attention_is_one_line_that_says_what_is_supported(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="VisionTransformer") as caught:
        quantize_model(model, QuantConfig())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight", "int8"),
        ("weight_bits", 1),
        ("weight_bits", 9),
        ("input_bits", 2.5),
        ("input_bits", 1),
        ("input_bits", 16),
        ("input_bits", "2"),
        ("qkr", "yes"),
        ("edge_bits", 0),
        ("dead_biases", 1),
        ("wheight", "lsq"),
    ],
)
def test_a_bad_configuration_is_one_error_that_names_the_field(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field) as caught:
        QuantConfig(**{field: value})  # type: ignore[arg-type]
    assert caught.value.error_count() == 1


def test_statsq_above_four_bits_warns_once_at_configuration() -> None:
    with pytest.warns(UserWarning, match="weight_bits=5"):
        QuantConfig(weight_bits=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        QuantConfig(weight="lsq", weight_bits=8)
        QuantConfig(weight_bits=4)


def test_forward_without_calibration_says_what_to_do(images: Tensor) -> None:
    model = quantize_model(small_model(), QuantConfig())
    with pytest.raises(RuntimeError, match=r"calibrate\(model, batches\)"):
        model(images)


def test_calibration_restores_every_mode_and_takes_labelled_batches(images: Tensor, labels: Tensor) -> None:
    model: Any = quantize_model(small_model(), QuantConfig())
    model.train()
    model.blocks[0].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    calibrate(model, [(images, labels), [images, labels], images])
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_calibration_happens_once(make: Callable[[], nn.Module], images: Tensor) -> None:
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="calibrated already"):
        calibrate(model, [images])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_failed_calibration_sets_no_step(images: Tensor) -> None:
    model = quantize_model(small_model(), QuantConfig()).train()

    def broken() -> Iterator[Tensor]:
        yield images
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        calibrate(model, broken())
    with pytest.raises(ValueError, match="no batches"):
        calibrate(model, [])
    assert model.training
    assert not any(module.calibrated for module in model.modules() if isinstance(module, LSQQuantizer))
    calibrate(model, [images])


def test_calibration_of_a_model_without_steps_or_with_an_unreached_one_is_an_error(images: Tensor) -> None:
    with pytest.raises(ValueError, match="quantize_model"):
        calibrate(small_model(), [images])
    model: Any = quantize_model(small_model(), QuantConfig())
    model.spare = LSQQuantizer(2)
    with pytest.raises(RuntimeError, match="does not reach the quantizer spare"):
        calibrate(model, [images])
    assert not model.head.input_quantizer.calibrated


def test_a_fresh_model_loads_a_checkpoint_strictly(
    make: Callable[[], nn.Module], images: Tensor, switches: Any
) -> None:
    model = make()
    fresh = quantize_model(small_model(), QuantConfig(**switches))
    for parameter in fresh.parameters():
        if type(parameter) is nn.Parameter:
            nn.init.zeros_(parameter)
    fresh.load_state_dict(model.state_dict(), strict=True)
    model.eval()
    assert torch.equal(fresh.eval()(images), model(images))
    twin = copy.deepcopy(model)
    assert torch.equal(twin(images), model(images))


@pytest.mark.parametrize("switches", KINDS, ids=name_of)
def test_block_weights_are_all_low_bit_weights_in_order(switches: dict[str, Any], images: Tensor) -> None:
    model = quantize_model(small_model(), QuantConfig(weight_bits=3, **switches))
    calibrate(model, [images])
    weights = block_weights(model)
    groups = ["qk", "v"] if switches.get("qkr") else ["q", "k", "v"]
    assert [w.group for w in weights] == [*groups, "proj", "fc1", "fc2"] * 2
    assert [w.block for w in weights] == [0] * (len(groups) + 3) + [1] * (len(groups) + 3)
    assert weights[0].name == f"blocks.0.attn.{groups[0]}" and weights[-1].name == "blocks.1.mlp.fc2"
    record_codes(model)
    assert all(torch.equal(weight.last_codes(), weight.codes()) for weight in weights), "before any forward pass too"
    model.train()(images)
    for weight in weights:
        assert weight.bits == 3
        assert torch.equal(weight.last_codes(), weight.codes())
        assert weight.latent().shape == weight.codes().shape == weight.position().shape
        assert not weight.latent().requires_grad
    assert weights[0].codes().shape == ((32, 16) if switches.get("qkr") else (16, 16))
    record_codes(model, on=False)
    with pytest.raises(RuntimeError, match="record_codes"):
        weights[0].last_codes()


def test_block_weights_of_a_float_model_is_an_error() -> None:
    with pytest.raises(ValueError, match="quantize_model"):
        block_weights(small_model())


def test_every_parameter_gets_a_finite_gradient(make: Callable[[], nn.Module], images: Tensor, labels: Tensor) -> None:
    model = make()
    nn.functional.cross_entropy(model(images), labels).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_mixed_precision_reaches_every_parameter(make: Callable[[], nn.Module], images: Tensor, labels: Tensor) -> None:
    model = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.dtype == parameter.dtype
