"""Steps, rounding and codes are float32 whatever autocast does, and whatever the model is cast to."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ofq.quant import QuantConfig, Quantizer, block_weights, calibrate, quantize_model
from ofq.quant.modules.linear import QuantLinear
from ofq.quant.quantizers.learned import LearnedStepQuantizer
from ofq.quant.quantizers.lsq import LSQQuantizer, MovedLSQQuantizer
from ofq.quant.quantizers.nagel import NagelQuantizer
from ofq.quant.quantizers.rms import RMSQuantizer
from ofq.quant.quantizers.statsq import StatsQuantizer
from ofq.quant.weights import record_codes
from tests.quant.small import small_model, train_step

BAND = 0.1
"""Relative difference of a loss in bfloat16 to that in float32, over the first 20 steps."""


class Spread(Quantizer):
    """A quantizer of a user's, whose step is a product: autocast would make it bfloat16."""

    def step(self, w: Tensor) -> Tensor:
        return (w @ w.t()).diagonal().sqrt() / 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "quantizer",
    [
        LSQQuantizer(2),
        LSQQuantizer(3, grid="midrise"),
        StatsQuantizer(2),
        RMSQuantizer(2),
        Spread(2),
        NagelQuantizer(2, fit="minmax"),
    ],
    ids=lambda quantizer: quantizer.extra_repr(),
)
def test_a_narrow_weight_has_the_codes_of_its_float32_values(quantizer: Quantizer, dtype: torch.dtype) -> None:
    w = (torch.randn(6, 8, generator=torch.Generator().manual_seed(0)) / 1000).to(dtype)  # steps of half of 1e-3
    quantizer = copy.deepcopy(quantizer)
    if isinstance(quantizer, LearnedStepQuantizer):
        calibrate(quantizer, [w])
    expected = quantizer.rounded(w.float())
    quantizer.to(dtype)
    found = quantizer.rounded(w.requires_grad_())
    assert found.values.dtype == dtype and found.step.dtype == found.codes.dtype == torch.float32
    assert torch.equal(found.codes, expected.codes) and torch.equal(found.step, expected.step)
    assert torch.equal(found.values, expected.values.to(dtype))
    assert torch.equal(quantizer.codes(w), quantizer.codes(w.float()))
    found.values.sum().backward()
    assert w.grad is not None and w.grad.dtype == dtype and w.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cast_model_keeps_its_steps_and_learns(
    make: Callable[[], nn.Module], images: Tensor, labels: Tensor, dtype: torch.dtype
) -> None:
    model = make()
    codes = [weight.codes() for weight in block_weights(model)]
    learned = {name: p.clone() for name, p in model.named_parameters() if "quantizer" in name}
    model.to(dtype)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if name in learned else dtype), name
        assert name not in learned or torch.equal(parameter, learned[name])
    out = model(images.to(dtype))
    assert out.dtype == dtype
    nn.functional.cross_entropy(out, labels).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    same = [torch.equal(one, weight.codes()) for one, weight in zip(codes, block_weights(model), strict=True)]
    assert sum(same) >= len(same) / 2  # a weight that was rounded to fewer bits may cross a threshold


def test_calibration_under_autocast_makes_steps_of_float32(switches: dict[str, Any], images: Tensor) -> None:
    model = quantize_model(small_model(), QuantConfig(**switches))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        calibrate(model, [images])
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_a_state_dict_of_fewer_bits_is_loaded_as_float32() -> None:
    quantizer = LSQQuantizer(2)
    quantizer.load_state_dict({"scale": torch.ones(3, dtype=torch.bfloat16)})
    assert quantizer.scale.dtype == torch.float32


def test_the_sign_of_an_image_and_move_biases_in_fewer_bits() -> None:
    x = torch.randn(2, 3, 4, 4, dtype=torch.float16, generator=torch.Generator().manual_seed(0))
    quantizer = MovedLSQQuantizer(8, (4, 4), signed="detect", axis=1)
    calibrate(quantizer, [x])
    quantizer.half()
    assert quantizer(x).dtype == torch.float16
    assert torch.equal(quantizer(x), quantizer(x.float()).half()) and quantizer.negative_seen == 1


def test_autocast_leaves_the_codes_of_weights(switches: dict[str, Any], images: Tensor) -> None:
    """Those of the product of query and key weights too."""
    model = quantize_model(small_model(), QuantConfig(**switches))
    calibrate(model, [images])
    record_codes(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(images)
    assert all(torch.equal(weight.last_codes(), weight.codes()) for weight in block_weights(model))


def test_large_codes_do_not_exceed_float16() -> None:
    """The sum of 768 products of codes of 8 bits exceeds it by far; the values that they stand for do not."""
    linear, quantizers = nn.Linear(768, 4), (LSQQuantizer(8, axis=0), LSQQuantizer(8, signed=False, axis=-2))
    nn.init.constant_(linear.weight, 0.02)
    layer = QuantLinear.from_linear(linear, weight_quantizer=quantizers[0], input_quantizer=quantizers[1])
    x = torch.rand(2, 5, 768) + 1
    calibrate(layer, [x])
    with torch.no_grad():
        quantizers[0].scale.fill_(0.02 / 120)
        quantizers[1].scale.fill_(2 / 250)
        expected = layer(x)
        for dtype in (torch.float16, torch.bfloat16):
            with torch.autocast("cpu", dtype=dtype):
                torch.testing.assert_close(layer(x).float(), expected, rtol=1e-2, atol=0.0)
        torch.testing.assert_close(layer.half()(x.half()).float(), expected, rtol=1e-2, atol=0.0)


def test_autocast_leaves_the_step_of_a_class_that_multiplies() -> None:
    w, quantizer = torch.randn(6, 8), Spread(3)
    expected = quantizer(w)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer(w), expected)


def test_losses_in_bfloat16_stay_in_a_band_around_those_of_float32(
    switches: dict[str, Any], images: Tensor, labels: Tensor
) -> None:
    losses: dict[bool, list[float]] = {False: [], True: []}
    for narrow, found in losses.items():
        model = quantize_model(small_model(), QuantConfig(**switches | {"weight_bits": 4, "input_bits": 4}))
        calibrate(model, [images])
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(20):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
                train_step(model, optimizer, images, labels)
                found.append(nn.functional.cross_entropy(model(images).float(), labels).item())
    worst = max(abs(a - b) / b for a, b in zip(losses[True], losses[False], strict=True))
    assert worst < BAND
