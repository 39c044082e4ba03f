"""The fused functions against the quantizers and products that they are made of, and what the graph keeps."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ofq.quant import QuantConfig, calibrate, quantize_model
from ofq.quant.modules.linear import QuantLinear
from ofq.quant.quantizers.lsq import LSQQuantizer, MovedLSQQuantizer
from ofq.quant.quantizers.statsq import StatsQuantizer
from tests.quant.small import KINDS, name_of, small_model

Run = tuple[Tensor, dict[str, Tensor]]


def _run(model: nn.Module, images: Tensor) -> Run:
    """Output and gradients of one pass."""
    model.zero_grad()
    out = model(images)
    out.square().sum().backward()
    return out.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _agree(one: Run, other: Run, *, rtol: float, atol: float) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=rtol, atol=atol)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def _moved(model: nn.Module) -> nn.Module:
    """The model with move biases that are not zero."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, MovedLSQQuantizer):
                for bias in (module.before, module.after):
                    if bias is not None:
                        bias.normal_(0, 0.1, generator=random)
    return model


@pytest.mark.parametrize("dead_biases", [False, True])
def test_fused_functions_agree_with_their_parts(
    switches: dict[str, Any], dead_biases: bool, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = quantize_model(small_model(), QuantConfig(**switches, dead_biases=dead_biases)).double()
    calibrate(model, [images.double()])
    _moved(model)
    fused = _run(model, images.double())
    monkeypatch.setattr("ofq.quant.kernels.choose.choose", lambda *arguments: None)
    _agree(fused, _run(model, images.double()), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_products_of_integers_agree_with_those_of_numbers(
    switches: dict[str, Any], bits: int, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    switches |= {"weight_bits": min(bits, 4) if switches["weight"] == "statsq" else bits, "input_bits": bits}
    model = quantize_model(small_model(), QuantConfig(**switches))
    calibrate(model, [images])
    model = nn.Sequential(_moved(model).blocks[0])  # type: ignore[index]  # deeper, a last bit may flip a code
    tokens = torch.randn(6, 5, 16, generator=torch.Generator().manual_seed(2))
    runs = []
    for integers in (True, False):
        monkeypatch.setattr("ofq.quant.kernels.choose._multiplies_integers", lambda integers=integers: integers)
        runs.append(_run(model, tokens))
    _agree(*runs, rtol=1e-4, atol=1e-4)


def _kept(model: nn.Module, x: Tensor) -> int:
    """Bytes that the graph of a forward pass keeps, parameters and input left out."""
    left_out = {tensor.untyped_storage().data_ptr() for tensor in (x, *model.parameters())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in left_out)


@pytest.mark.parametrize("switches", KINDS, ids=name_of)
def test_a_quantized_block_keeps_little_more_than_a_float_one(switches: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "num_heads": 3, "depth": 1}
    images = torch.rand(32, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    model: Any = small_model(**arguments, mlp_ratio=4.0)
    tokens = torch.randn(32, 65, 48, requires_grad=True)
    plain = _kept(model.blocks[0], tokens)
    quantize_model(model, QuantConfig(**switches))
    calibrate(model, [images])
    assert _kept(model.blocks[0], tokens) < 1.5 * plain  # probabilities, which fused attention in floats does not keep


def test_a_quantized_linear_layer_keeps_one_tensor_of_its_inputs_size() -> None:
    x = torch.randn(64, 10, 32, requires_grad=True)
    layer = QuantLinear(32, 8, weight_quantizer=StatsQuantizer(2), input_quantizer=MovedLSQQuantizer(2, (32,), axis=-2))
    calibrate(layer, [x])
    assert x.nbytes <= _kept(layer, x) < 1.1 * x.nbytes
    statistical = nn.Sequential(StatsQuantizer(2))
    assert _kept(statistical, torch.randn(8, 32, requires_grad=True)) == 0


def test_gradient_through_dropped_probabilities(images: Tensor) -> None:
    model: Any = quantize_model(small_model(attn_drop_rate=0.5, depth=1), QuantConfig()).double()
    calibrate(model, [images.double()])
    attention = model.blocks[0].attn.train()
    attention.proj = nn.Identity()
    tokens, g = torch.randn(2, 6, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss() -> Tensor:
        torch.manual_seed(0)  # the same mask
        return (attention(tokens) * g).sum()

    loss().backward()
    after = attention.v_quantizer.after  # the output is linear in it
    direction = torch.randn_like(after)
    expected = float(after.grad @ direction)
    with torch.no_grad():
        first = float(loss())
        after.add_(direction)
        assert float(loss()) - first == pytest.approx(expected)


def test_a_frozen_weight_and_a_missing_bias_get_no_gradient() -> None:
    x = torch.randn(4, 3, 8)  # no gradient either
    layer = QuantLinear(
        8, 5, bias=False, weight_quantizer=StatsQuantizer(2), input_quantizer=MovedLSQQuantizer(2, (8,))
    )
    calibrate(layer, [x])
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None and layer.bias is None
    quantizer: Any = layer.input_quantizer
    assert all(p.grad is not None for p in (quantizer.scale, quantizer.before, quantizer.after))


def test_a_recorded_input_quantizer_rounds_by_itself(make: Callable[[], nn.Module], images: Tensor) -> None:
    model: Any = make()
    quantizer: LSQQuantizer = model.blocks[0].mlp.fc1.input_quantizer
    twin = copy.deepcopy(model)
    quantizer.record = True
    torch.testing.assert_close(model(images), twin(images), rtol=1e-3, atol=1e-3)
    assert quantizer.last_codes is not None and quantizer.last_codes.unique().numel() > 1
