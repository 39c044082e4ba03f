"""The quantizers' interface: integers and values agree, steps are set once and travel in the state dict."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from torch import Tensor, nn

from ofq.quant import LSQQuantizer, QuantConfig, StatsQuantizer, block_weights, calibrate, quantize_model
from ofq.quant.quantizers.base import Quantizer, Rounded
from ofq.quant.quantizers.learned import LearnedStepQuantizer
from ofq.quant.quantizers.lsq import MovedLSQQuantizer
from ofq.quant.quantizers.rms import BEST, RMSQuantizer
from tests.quant.small import small_model

KINDS = st.sampled_from(["statsq", "lsq", "lsq-midrise"])


def _quantizer(kind: str, bits: int, w: Tensor) -> Quantizer:
    if kind == "statsq":
        return StatsQuantizer(bits)
    quantizer = LSQQuantizer(bits, axis=0, grid="midrise" if kind == "lsq-midrise" else "integer")
    calibrate(quantizer, [w])
    return quantizer


@given(KINDS, st.integers(2, 8), st.integers(0, 2**31))
def test_values_are_steps_times_codes(kind: str, bits: int, seed: int) -> None:
    w = torch.randn(5, 9, generator=torch.Generator().manual_seed(seed))
    quantizer = _quantizer(kind, bits, w)
    codes = quantizer.codes(w)
    n = 2 ** (bits - 1)
    assert codes.dtype == torch.int8 and -n <= codes.min() and codes.max() <= n - 1
    shift = 0 if kind == "lsq" else 0.5
    torch.testing.assert_close(quantizer(w), quantizer.step(w).view(5, 1) * (codes + shift))
    assert torch.equal(quantizer.position(w).round().to(torch.int8), codes)


@given(KINDS, st.integers(2, 8))
def test_recorded_codes_are_those_of_the_forward_pass(kind: str, bits: int) -> None:
    w = torch.randn(4, 8, generator=torch.Generator().manual_seed(bits)).requires_grad_()
    quantizer = _quantizer(kind, bits, w)
    quantizer(w)
    assert quantizer.last_codes is None
    quantizer.record = True
    quantizer(w)
    assert quantizer.last_codes is not None and not quantizer.last_codes.requires_grad
    assert torch.equal(quantizer.last_codes, quantizer.codes(w))


def test_midrise_grid_starts_with_the_step_of_statsq() -> None:
    w = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    for bits in (2, 3, 4):
        learned, statistical = _quantizer("lsq-midrise", bits, w), StatsQuantizer(bits)
        torch.testing.assert_close(learned.step(w), statistical.step(w))
        assert torch.equal(learned.codes(w), statistical.codes(w))


@pytest.mark.parametrize(
    ("arguments", "kappa"),
    [
        ({"axis": 0}, 2),
        ({"axis": -2, "signed": False}, 4),
        ({"axis": -1, "signed": False}, 4),
        ({"axis": None, "signed": False}, 2),
        ({"axis": 1, "signed": "detect"}, 2),
    ],
)
def test_initial_step(arguments: dict[str, Any], kappa: int) -> None:
    x = torch.rand(3, 4, 5)
    quantizer = LSQQuantizer(3, **arguments)
    calibrate(quantizer, [x])
    largest = 3 if arguments.get("signed") is None else 7
    axis = arguments["axis"]
    mean = x.mean() if axis is None else x.movedim(axis, 0).flatten(1).mean(1)
    torch.testing.assert_close(quantizer.scale.detach(), (kappa * mean / largest**0.5).reshape(-1))


def test_several_batches_average_their_means() -> None:
    quantizer = LSQQuantizer(2, axis=-1)
    calibrate(quantizer, [torch.full((2, 3), 1.0), torch.full((7, 3), 2.0)])
    torch.testing.assert_close(quantizer.scale.detach(), torch.full((3,), 3.0))


def test_detected_sign_is_sticky_and_saved() -> None:
    quantizer = LSQQuantizer(4, signed="detect", axis=1)
    positive = torch.rand(2, 3, 4, 4)
    calibrate(quantizer, [positive])
    assert [float(level) for level in quantizer.levels()] == [0, 15]
    quantizer(positive - 5e-6)  # above the threshold of -1e-5
    assert quantizer.negative_seen == 0
    quantizer.eval()(positive - 0.5)
    quantizer(positive)
    assert [float(level) for level in quantizer.levels()] == [-8, 7]
    fresh = LSQQuantizer(4, signed="detect", axis=1)
    fresh.load_state_dict(quantizer.state_dict())
    assert torch.equal(fresh(positive), quantizer(positive))


def test_moved_quantizer_adds_before_and_after() -> None:
    x = torch.randn(2, 3, 4)
    moved, plain = MovedLSQQuantizer(3, (4,)), LSQQuantizer(3, axis=-2)
    with torch.no_grad():
        moved.before.copy_(torch.randn(4))
        assert moved.after is not None
        moved.after.copy_(torch.randn(4))
    calibrate(moved, [x])
    calibrate(plain, [x + moved.before.detach()])
    torch.testing.assert_close(moved(x), plain(x + moved.before) + moved.after)


def test_learned_parameters_are_vectors() -> None:
    quantizer = MovedLSQQuantizer(2, (2, 4), axis=(-3, -2), after_rows=1)
    calibrate(quantizer, [torch.randn(3, 5, 2, 4)])
    assert {name: tuple(p.shape) for name, p in quantizer.named_parameters()} == {
        "scale": (10,),
        "before": (8,),
        "after": (4,),
    }


def test_another_size_along_the_axis_is_an_error() -> None:
    quantizer = LSQQuantizer(2, axis=-2)
    calibrate(quantizer, [torch.randn(2, 5, 4)])
    with pytest.raises(ValueError, match="calibrated for 5 steps along axis -2"):
        quantizer(torch.randn(2, 1, 4))


@pytest.mark.parametrize("call", ["forward", "step", "position", "codes"])
def test_use_before_calibration_says_what_to_do(call: str) -> None:
    with pytest.raises(RuntimeError, match=r"calibrate\(model, batches\)"):
        getattr(LSQQuantizer(2), call)(torch.randn(3, 4))


def test_state_dict_round_trip() -> None:
    x = torch.randn(3, 4)
    calibrated, fresh = LSQQuantizer(2), LSQQuantizer(2)
    assert "scale" not in calibrated.state_dict()
    fresh.load_state_dict(calibrated.state_dict())  # neither is calibrated
    calibrate(calibrated, [x])
    fresh.load_state_dict(calibrated.state_dict())
    assert torch.equal(fresh(x), calibrated(x))
    with pytest.raises(RuntimeError, match="scale"):
        fresh.load_state_dict(LSQQuantizer(2).state_dict())  # a calibrated model does not accept a missing step
    with pytest.raises(RuntimeError, match="size mismatch"):
        fresh.load_state_dict({"scale": torch.ones(4)})


def test_copies_are_independent() -> None:
    x = torch.randn(3, 4)
    original = LSQQuantizer(2)
    twin = copy.deepcopy(original)
    calibrate(twin, [x])
    assert twin.calibrated and not original.calibrated
    third = copy.deepcopy(twin)
    with torch.no_grad():
        third.scale.mul_(2)
    assert not torch.equal(third.scale, twin.scale)


def test_quantizers_move_and_convert_before_calibration() -> None:
    quantizer = LSQQuantizer(2).to(torch.float64)
    calibrate(quantizer, [torch.randn(3, 4, dtype=torch.float64)])
    assert quantizer.scale.dtype == torch.float64 and isinstance(quantizer.scale, nn.Parameter)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 1}, "bits must be 2 to 8"),
        ({"bits": 9}, "bits must be 2 to 8"),
        ({"bits": 2.5}, "bits must be 2 to 8 and whole, not 2.5"),
        ({"bits": float("nan")}, "bits must be 2 to 8 and whole, not nan"),
        ({"bits": "2"}, "bits must be 2 to 8 and whole, not '2'"),
        ({"bits": 2, "start": float("nan")}, "start must be positive, not nan"),
        ({"bits": 2, "start": float("inf")}, "start must be positive, not inf"),
        ({"bits": 2, "clipped_gradient": "none"}, "clipped_gradient must be 'zero' or 'identity', not 'none'"),
        ({"bits": 2, "signed": "maybe"}, "signed must be"),
        ({"bits": 2, "grid": "other"}, "grid must be"),
        ({"bits": 2, "grid": "midrise", "signed": False}, "needs signed=True"),
        ({"bits": 2, "axis": (-3, -1)}, "neighbouring axes"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LSQQuantizer(**arguments)


@pytest.mark.parametrize("grid", ["integer", "midrise"])
def test_a_step_that_does_not_learn_stays_where_calibration_put_it(grid: Any) -> None:
    model: Any = quantize_model(small_model(), QuantConfig(weight="lsq", learn_step=False))
    learning: Any = quantize_model(small_model(), QuantConfig(weight="lsq"))
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for each in (model, learning):
        calibrate(each, [images])
    scales = [m.weight_quantizer.scale for b in model.blocks for m in (b.attn.qkv, b.attn.proj, b.mlp.fc1, b.mlp.fc2)]
    assert not any(scale.requires_grad for scale in scales) and model.head.weight_quantizer.scale.requires_grad
    model(images).sum().backward()
    assert all(scale.grad is None for scale in scales)
    # Nothing else differs: the gradients of the weights are those beside learned steps.
    learning(images).sum().backward()
    assert torch.equal(model.blocks[0].mlp.fc1.weight.grad, learning.blocks[0].mlp.fc1.weight.grad)
    fresh = LSQQuantizer(2, grid=grid, learn_step=False)
    fresh.load_state_dict({"scale": torch.ones(3)})
    assert not fresh.scale.requires_grad and fresh.calibrated


@pytest.mark.parametrize("grid", ["integer", "midrise"])
def test_clipped_weights_get_no_gradient_or_all_of_it(grid: Any) -> None:
    w = torch.tensor([[-9.0, -0.6, 0.2, 0.7, 9.0]])
    found = {}
    for kind in ("zero", "identity"):
        quantizer = LSQQuantizer(2, grid=grid, clipped_gradient=kind)  # type: ignore[arg-type]
        quantizer.load_state_dict({"scale": torch.ones(1)})
        weight = w.clone().requires_grad_()
        quantizer(weight).backward(torch.full_like(w, 3.0))
        found[kind] = weight.grad, quantizer.scale.grad, quantizer(w)
    assert found["zero"][0].tolist() == [[0, 3, 3, 3, 0]] and found["identity"][0].tolist() == [[3.0] * 5]  # type: ignore[union-attr]
    assert torch.equal(found["zero"][1], found["identity"][1]) and torch.equal(found["zero"][2], found["identity"][2])  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_factor_widens_the_step_of_statsq_and_nothing_else(bits: int) -> None:
    w, g = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    usual, wide = StatsQuantizer(bits), StatsQuantizer(bits, factor=3)
    assert torch.equal(wide.step(w), 1.5 * usual.step(w))
    torch.testing.assert_close(usual.step(w), 2 * w.abs().mean(1) / 2 ** (bits - 1))
    n, step, weight = 2 ** (bits - 1), wide.step(w).view(5, 1), w.clone().requires_grad_()
    out = wide(weight)
    torch.testing.assert_close(out, step * ((w / step - 0.5).clamp(-n, n - 1).round() + 0.5))
    out.backward(g)
    assert torch.equal(weight.grad, g)  # type: ignore[arg-type]


@pytest.mark.parametrize("grid", ["integer", "midrise"])
def test_lsq_starts_where_it_is_told_to(grid: Any) -> None:
    w = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    steps = {}
    for start in (0.5, 1.0, 2.0):
        quantizer = LSQQuantizer(3, grid=grid, start=start)
        calibrate(quantizer, [w])
        steps[start] = quantizer.scale.detach()
    torch.testing.assert_close(steps[1.0], 2 * w.abs().mean(1) / (3**0.5 if grid == "integer" else 4))
    assert torch.equal(steps[0.5], 0.5 * steps[1.0]) and torch.equal(steps[2.0], 2 * steps[1.0])


def test_the_start_and_the_factor_reach_the_weights_of_the_blocks_and_no_other() -> None:
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for usual, other, ratio in (
        (QuantConfig(weight="lsq"), QuantConfig(weight="lsq", start=2), 2.0),
        (QuantConfig(weight="statsq", qkr=True), QuantConfig(weight="statsq", qkr=True, factor=3), 1.5),
    ):
        models: list[Any] = [quantize_model(small_model(), config) for config in (usual, other)]
        for model in models:
            calibrate(model, [images])
        for first, second in zip(*map(block_weights, models), strict=True):
            assert second.step_width() == pytest.approx(ratio * first.step_width())
        assert torch.equal(*(model.head.weight_quantizer.scale for model in models))
        assert torch.equal(*(model.blocks[0].mlp.fc1.input_quantizer.scale for model in models))


@pytest.mark.parametrize("bits", BEST)
def test_the_rms_step_has_the_least_error_for_a_gaussian(bits: int) -> None:
    x = np.linspace(0, 9, 400_001)
    density = np.exp(-(x**2) / 2)

    def error(half_span: float) -> float:
        step = 2 * half_span / (2**bits - 1)
        levels = step * (np.clip(np.floor(x / step), 0, 2 ** (bits - 1) - 1) + 0.5)
        return float((density * (x - levels) ** 2).sum())

    found = optimize.minimize_scalar(error, bounds=(1, 5), method="bounded", options={"xatol": 1e-7})
    assert BEST[bits] == pytest.approx(found.x, abs=2e-3)
    assert error(BEST[bits]) == pytest.approx(found.fun, rel=1e-6)


def test_a_mask_hides_the_gradient_of_weights_clipped_by_more_than_half_a_step() -> None:
    w = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    quantizer = RMSQuantizer(2, gradient_mask=True)
    out = quantizer(w)
    out.sum().backward()
    clipped = (out - w).abs() > quantizer.step(w.detach()).view(4, 1) / 2
    assert clipped.any() and torch.equal(w.grad == 0, clipped)
    assert torch.equal(out, RMSQuantizer(2)(w)) and not RMSQuantizer(2)(torch.zeros(2, 4)).isnan().any()


@pytest.mark.parametrize(
    ("weight", "switch", "owners"),
    [
        ("statsq", {"learn_step": False}, "learn_step is a switch of lsq, lsq-midrise and nagel"),
        ("rms", {"clipped_gradient": "identity"}, "clipped_gradient is a switch of lsq and lsq-midrise"),
        ("statsq", {"start": 2.0}, "start is a switch of lsq and lsq-midrise"),
        ("lsq-midrise", {"factor": 3.0}, "factor is a switch of statsq"),
        ("rms", {"factor": 3.0}, "factor is a switch of statsq"),
        ("statsq", {"gradient_mask": True}, "gradient_mask is a switch of rms"),
        ("lsq", {"fit": "minmax"}, "fit is a switch of nagel"),
        ("lsq", {"gradient_scale": True}, "gradient_scale is a switch of nagel"),
    ],
)
def test_a_switch_beside_a_quantizer_without_it_is_refused(weight: str, switch: dict[str, Any], owners: str) -> None:
    with pytest.raises(ValueError, match=owners):
        QuantConfig(weight=weight, **switch)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "2"])
@pytest.mark.parametrize(("weight", "name"), [("statsq", "factor"), ("lsq", "start")])
def test_a_width_is_a_positive_number(weight: str, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        QuantConfig(weight=weight, **{name: value})
    if isinstance(value, float | int) and not isinstance(value, bool):
        with pytest.raises(ValueError, match=f"{name} must be positive"):
            (StatsQuantizer if weight == "statsq" else LSQQuantizer)(2, **{name: value})


class LargestWeight(LearnedStepQuantizer):
    """A learned step that starts at the largest weight of the row."""

    def __init__(self, bits: int) -> None:
        super().__init__(bits, axis=0, learn_step=True)

    def step(self, w: Tensor) -> Tensor:
        return self.scale

    def statistic(self, x: Tensor) -> Tensor:
        return x.abs().amax(1)

    def first_step(self, statistic: Tensor) -> Tensor:
        return statistic / 2 ** (self.bits - 1)

    def rounded(self, x: Tensor) -> Rounded:
        if self.calibrating:
            self._observe(x)
        return super().rounded(x)


def test_calibration_sets_the_step_of_any_learned_quantizer() -> None:
    w = torch.randn(3, 8)
    quantizer, fresh = LargestWeight(2), LargestWeight(2)
    calibrate(quantizer, [w])
    torch.testing.assert_close(quantizer.scale.detach(), w.abs().amax(1) / 2)
    fresh.load_state_dict(quantizer.state_dict())
    assert torch.equal(fresh(w), quantizer(w))
