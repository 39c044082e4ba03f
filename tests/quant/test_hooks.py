"""The two stages of a hook at the quantizer: other codes, another gradient; and what they switch off."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ofq.quant import LSQQuantizer, QuantConfig, StatsQuantizer, calibrate, quantize_model
from ofq.quant.hook import Hook
from ofq.quant.kernels.choose import choose, fused
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.learned import LearnedStepQuantizer
from ofq.quant.quantizers.nagel import NagelQuantizer
from ofq.quant.weights import attach, block_weights, record_codes
from tests.quant.small import KINDS, name_of, small_model


class HalfMean(Quantizer):
    """A quantizer with nothing but a step."""

    def step(self, w: Tensor) -> Tensor:
        return w.abs().mean(1) / 2


class Down(Hook):
    """Rounds down, within the outermost codes."""

    def round_with(self, quantizer: Quantizer, u: Tensor, step: Tensor) -> Tensor:
        return torch.clamp(u.floor(), *quantizer.levels())


class ElementWise(Hook):
    """Scales a gradient by the rounding error (Lee et al. 2021): g*(1 + delta*sign(g)*(u - code))."""

    def scale_gradient(self, quantizer: Quantizer, g: Tensor, u: Tensor, codes: Tensor) -> Tensor:
        return g * (1 + 0.2 * g.sign() * (u - codes))


class Silent(Hook):
    """Overrides both and asks for nothing."""

    def round_with(self, quantizer: Quantizer, u: Tensor, step: Tensor) -> None:
        return None

    def scale_gradient(self, quantizer: Quantizer, g: Tensor, u: Tensor, codes: Tensor) -> None:
        return None


def lsq(**options: Any) -> LSQQuantizer:
    return LSQQuantizer(2, **options)


MAKERS: dict[str, Callable[[], Quantizer]] = {
    "statsq": lambda: StatsQuantizer(2),
    "lsq": lsq,
    "lsq-midrise": lambda: lsq(grid="midrise"),
    "lsq-identity": lambda: lsq(clipped_gradient="identity"),
    "nagel": lambda: NagelQuantizer(2),
    "step only": lambda: HalfMean(2),
}


@pytest.fixture(params=MAKERS)
def quantizer(request: pytest.FixtureRequest, w: Tensor) -> Quantizer:
    made = MAKERS[request.param]()
    if isinstance(made, LearnedStepQuantizer):
        calibrate(made, [w])
    return made


@pytest.fixture
def w() -> Tensor:
    return torch.randn(5, 24, generator=torch.Generator().manual_seed(0))


def passed(quantizer: Quantizer, w: Tensor) -> tuple[Tensor, ...]:
    """Values, codes, and gradients of the weight and of the steps for a gradient of varying sign."""
    quantizer.zero_grad()
    latent = w.clone().requires_grad_()
    values, codes, _, _ = quantizer.rounded(latent)
    g = torch.randn(w.shape, generator=torch.Generator().manual_seed(1))
    (values * g).sum().backward()
    assert latent.grad is not None
    return values.detach(), codes, latent.grad, *(p.grad for p in quantizer.parameters() if p.grad is not None)


def test_a_hook_that_asks_for_nothing_changes_no_bit(quantizer: Quantizer, w: Tensor) -> None:
    plain = passed(quantizer, w)
    quantizer.hook = Silent()
    for ours, theirs in zip(passed(quantizer, w), plain, strict=True):
        assert torch.equal(ours, theirs)


def test_codes_are_those_that_the_hook_chose_everywhere(quantizer: Quantizer, w: Tensor) -> None:
    nearest = quantizer.codes(w)
    step = quantizer.step(w).view(-1, 1)
    expected = torch.clamp((w / step - quantizer.offset).floor(), -2, 1)
    quantizer.hook, quantizer.record = Down(), True
    values, codes, *_ = passed(quantizer.eval(), w)
    assert torch.equal(codes, expected) and not torch.equal(codes, nearest.to(codes))
    torch.testing.assert_close(values, step * (codes + quantizer.offset))
    assert torch.equal(quantizer.codes(w), expected.to(torch.int8))
    assert quantizer.last_codes is not None and torch.equal(quantizer.last_codes, quantizer.codes(w))


def test_a_hook_at_a_parameter_stands_back_where_nothing_learns(quantizer: Quantizer, w: Tensor) -> None:
    weight = nn.Parameter(w)
    plain = quantizer(weight)
    quantizer.hook = ElementWise()
    with torch.no_grad():
        assert torch.equal(quantizer(weight), plain)


def test_a_gradient_may_be_changed_in_place(quantizer: Quantizer, w: Tensor) -> None:
    class Double(Hook):
        def scale_gradient(self, quantizer: Quantizer, g: Tensor, u: Tensor, codes: Tensor) -> Tensor:
            return g.mul_(2)

    _, _, plain, *steps = passed(quantizer, w)
    quantizer.hook = Double()
    _, _, doubled, *same = passed(quantizer, w)
    assert torch.equal(doubled, 2 * plain)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(same, steps, strict=True))


def test_a_learned_step_learns_from_the_codes_that_were_chosen(w: Tensor) -> None:
    quantizer = lsq()
    calibrate(quantizer, [w])
    quantizer.hook = Down()
    _, codes, _, grad_scale = passed(quantizer, w)
    u = w / quantizer.step(w).view(-1, 1)
    g = torch.randn(w.shape, generator=torch.Generator().manual_seed(1))
    inside = (u >= -2) & (u <= 1)
    torch.testing.assert_close(grad_scale, (g * (codes - u * inside)).sum(1) * (1 * 24) ** -0.5)


def test_a_scaled_gradient_reaches_the_weight_and_not_the_step(quantizer: Quantizer, w: Tensor) -> None:
    _, codes, plain, *steps = passed(quantizer, w)
    quantizer.hook = ElementWise()
    _, _, scaled, *same = passed(quantizer, w)
    u = w / quantizer.step(w).view(-1, 1) - quantizer.offset
    g = torch.randn(w.shape, generator=torch.Generator().manual_seed(1))
    expected = g * (1 + 0.2 * g.sign() * (u - codes))
    torch.testing.assert_close(scaled, torch.where(plain == 0, 0.0, expected))
    assert (plain == 0).any() == (
        type(quantizer) is NagelQuantizer or getattr(quantizer, "clipped_gradient", "") == "zero"
    )
    for ours, theirs in zip(same, steps, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("switches", KINDS, ids=name_of)
def test_only_a_hook_with_one_of_the_two_stages_acts_in_the_quantizers(
    switches: dict[str, Any], images: Tensor
) -> None:
    model: Any = quantize_model(small_model(), QuantConfig(**switches))
    calibrate(model, [images])
    record_codes(model)
    attach(Hook(), model)
    assert all(weight.quantizer.hook is None for weight in block_weights(model))
    plain = model(images)
    attach(Silent(), model)
    torch.testing.assert_close(model(images), plain)
    attach(Down(), model)
    assert not torch.allclose(model(images), plain)
    for weight in block_weights(model):
        assert torch.equal(weight.last_codes(), weight.position().floor().to(torch.int8))


def test_a_hook_at_the_weight_switches_the_fused_path_off(images: Tensor) -> None:
    model: Any = quantize_model(small_model(), QuantConfig(weight="lsq"))
    calibrate(model, [images])
    layer = model.blocks[0].mlp.fc1
    x = torch.randn(2, 5, 16)
    assert fused(x, layer.input_quantizer, weight=layer.weight_quantizer) is not None
    attach(ElementWise(), model)
    assert fused(x, layer.input_quantizer, weight=layer.weight_quantizer) is None


def test_fused_functions_are_chosen_by_device_dtype_and_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr("ofq.quant.kernels.choose._multiplies_integers", lambda: True)
    integers, floats = choose(cpu, torch.float32, "eager"), choose(cpu, torch.float64, "eager")
    assert integers is not None and floats is not None and integers.weight is not floats.weight
    mixed = choose(cpu, torch.float32, "autocast")
    assert mixed is not None and mixed.linear is not floats.linear
    assert mixed == choose(cpu, torch.float32, "compile") == choose(cpu, torch.bfloat16, "eager")
    assert mixed == choose(cuda, torch.float32, "eager")
    assert choose(cuda, torch.float16, "eager") is None, "codes multiplied may exceed it"
    with torch.autocast("cpu", dtype=torch.float16):
        assert fused(torch.randn(2, 3), weight=None) is None
    with torch.autocast("cpu"):
        assert fused(torch.randn(2, 3), weight=None) == mixed
    monkeypatch.setattr("ofq.quant.kernels.choose._multiplies_integers", lambda: False)
    assert choose(cpu, torch.float32, "eager") == floats


@pytest.mark.parametrize("options", [{"grid": "midrise"}, {"clipped_gradient": "identity"}, {"signed": "detect"}])
def test_an_unusual_input_quantizer_rounds_by_itself(options: dict[str, Any]) -> None:
    """The fused functions know one grid and one gradient; another one must not be taken for it."""
    from ofq.quant.modules.linear import QuantLinear

    x = torch.randn(4, 5, 8)
    layer = QuantLinear(8, 3, input_quantizer=LSQQuantizer(2, axis=-2, **options))
    calibrate(layer, [x])
    assert layer.input_quantizer is not None and fused(x, layer.input_quantizer) is None
    expected = nn.functional.linear(layer.input_quantizer(x), layer.weight, layer.bias)
    assert torch.equal(layer(x), expected)
