"""The learned step of Nagel et al.: what it promises beside the fixtures."""

from typing import Any

import pytest
import torch

from ofq.quant import LSQQuantizer, QuantConfig, calibrate, quantize_model
from ofq.quant.quantizers.learned import learned_steps
from ofq.quant.quantizers.nagel import NagelQuantizer
from tests.quant.small import small_model


def with_step(scale: list[float], bits: int = 2, **options: Any) -> NagelQuantizer:
    quantizer = NagelQuantizer(bits, **options)
    quantizer.load_state_dict({"scale": torch.tensor(scale), "any_negative": torch.ones(())})
    return quantizer


def test_the_mask_is_closed_and_counts_in_rounded_weights() -> None:
    """Ties go to even: 1.5 becomes 2, beyond the largest code 1, and -2.5 becomes -2."""
    w = torch.tensor([[-2.6, -2.5, -2.0, 1.0, 1.4, 1.5]]).requires_grad_()
    quantizer = with_step([1.0])
    out = quantizer(w)
    assert out.tolist() == [[-2, -2, -2, 1, 1, 1]]
    out.sum().backward()
    assert w.grad is not None and w.grad.tolist() == [[0, 1, 1, 1, 1, 0]]
    # code - u*m of each
    torch.testing.assert_close(quantizer.scale.grad, torch.tensor([-2 + 0.5 + 0 + 0 - 0.4 + 1]))


@pytest.mark.parametrize("axis", [0, None])
def test_the_fit_has_the_least_error_of_all_candidates(axis: int | None) -> None:
    w = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    quantizer = NagelQuantizer(3, axis=axis)
    calibrate(quantizer, [w])
    steps = (w.abs().max() + 0.5) * torch.arange(1, 101) / 300

    def error(step: torch.Tensor) -> torch.Tensor:
        return (w - step * (w / step).round().clamp(-4, 3)).square().sum((1, 2, 3) if axis == 0 else (0, 1, 2, 3))

    best = torch.stack([error(step) for step in steps]).argmin(0)  # the first of equals
    torch.testing.assert_close(quantizer.scale.detach(), steps[best].view(-1))


def test_levels_follow_the_sign_of_the_whole_weight_and_stay() -> None:
    positive = torch.rand(2, 8, generator=torch.Generator().manual_seed(0))
    one_row = torch.cat([positive, -positive])
    for w, lowest in ((positive, 0), (one_row, -4), (one_row * 0, 0)):
        quantizer = NagelQuantizer(3)
        calibrate(quantizer, [w])
        assert [float(level) for level in quantizer.levels()] == [lowest, lowest + 7]
    unsigned = NagelQuantizer(8, fit="minmax")
    calibrate(unsigned, [positive])
    assert unsigned.codes(positive).amax() == 255
    assert (unsigned.codes(-positive) == 0).all(), "later weights do not change the levels"
    fresh = NagelQuantizer(8)
    fresh.load_state_dict(unsigned.state_dict())
    assert torch.equal(fresh(positive), unsigned(positive))


def test_a_failed_calibration_leaves_the_sign_as_it_was() -> None:
    quantizer = NagelQuantizer(3)
    with pytest.raises(ValueError, match="not finite"):
        calibrate(quantizer, [torch.rand(2, 3), torch.full((2, 3), torch.nan)])
    assert quantizer.any_negative == 1 and not quantizer.calibrated


@pytest.mark.parametrize("step", [-0.25, 0.0, 9e-9])
def test_a_step_below_its_floor_does_not_move_again(step: float) -> None:
    w = torch.randn(1, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    quantizer = with_step([step])
    quantizer(w).square().sum().backward()
    assert quantizer.scale.grad is not None and quantizer.scale.grad.item() == 0
    assert quantizer.step(w).item() == pytest.approx(1e-8)
    (name, (scale, floor)), *rest = learned_steps(torch.nn.Sequential(quantizer)).items()
    assert (name, floor, rest) == ("0.scale", 1e-8, []) and scale < floor


def test_with_gradient_scale_a_step_learns_as_fast_as_that_of_lsq() -> None:
    w = torch.rand(2, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1  # none is clipped
    found = []
    lsq = LSQQuantizer(3)
    lsq.load_state_dict({"scale": torch.full((2,), 0.3)})
    for quantizer in (with_step([0.3, 0.3], 3, gradient_scale=True), lsq):
        quantizer(w.clamp(-1.2, 0.9)).square().sum().backward()
        found.append(quantizer.scale.grad)
    torch.testing.assert_close(*found)


def test_a_model_has_it_in_its_blocks_with_its_switches() -> None:
    config = QuantConfig(weight="nagel", fit="minmax", gradient_scale=True, learn_step=False)
    quantizer = quantize_model(small_model(), config).blocks[0].mlp.fc1.weight_quantizer
    assert isinstance(quantizer, NagelQuantizer) and quantizer.fit == "minmax" and quantizer.gradient_scale
    assert not quantizer.learn_step
    assert config.model_dump(exclude_unset=True)["fit"] == "minmax"
    assert (
        not {"fit", "gradient_scale"} & QuantConfig(weight="nagel", fit="mse", gradient_scale=False).model_dump().keys()
    )


@pytest.mark.parametrize(("bits", "fit", "message"), [(1, "mse", "bits must be"), (2, "best", "fit must be 'mse'")])
def test_bad_arguments_are_named(bits: int, fit: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NagelQuantizer(bits, fit=fit)
