"""Weights of any shape: a step for each output channel, or one; whatever reads codes and steps takes them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ofq.quant import LSQQuantizer, QuantConfig, StatsQuantizer, calibrate, quantize_model
from ofq.quant.families.base import weight_quantizer
from ofq.quant.modules.conv import QuantConv2d
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.learned import LearnedStepQuantizer
from tests.quant.small import small_model

NAMES = ["statsq", "lsq", "lsq-midrise", "rms", "nagel"]
SHAPES = [(6, 20), (6, 4, 3, 3), (6, 1, 3, 3), (6, 4, 1, 1)]


def made(name: str, w: Tensor, axis: Any = "channel", bits: int = 3) -> Quantizer:
    quantizer = weight_quantizer(QuantConfig(weight=name, weight_bits=bits, weight_axis=axis))
    if isinstance(quantizer, LearnedStepQuantizer):
        calibrate(quantizer, [w])
    return quantizer


def passed(quantizer: Quantizer, w: Tensor) -> list[Tensor]:
    """Values, codes, positions, steps and gradients in the shape of ``w``."""
    latent = w.clone().requires_grad_()
    values, codes, step, _ = quantizer.rounded(latent)
    (values * torch.linspace(-1, 2, w.numel()).view(w.shape)).sum().backward()
    assert latent.grad is not None
    return [values.detach(), codes, quantizer.position(w), step.expand(w.shape), latent.grad]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_channel_of_a_convolution_is_quantized_as_the_row_of_a_matrix(name: str, shape: tuple[int, ...]) -> None:
    """Of `nagel` the range of the search is that of the whole weight, which is the same here."""
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    quantizer, flat = made(name, w), made(name, w.flatten(1))
    assert quantizer.step(w).shape == (6,)
    for ours, theirs in zip(passed(quantizer, w), passed(flat, w.flatten(1)), strict=True):
        torch.testing.assert_close(ours, theirs.view(shape))
    for parameter, other in zip(quantizer.parameters(), flat.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)
    assert torch.equal(quantizer.codes(w).flatten(1), flat.codes(w.flatten(1)))


@pytest.mark.parametrize("name", NAMES)
def test_one_step_for_the_tensor_is_that_of_all_its_weights_in_one_row(name: str) -> None:
    w = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    quantizer, row = made(name, w, "tensor"), made(name, w.view(1, -1))
    assert quantizer.step(w).shape == (1,) and not quantizer.rowwise
    for ours, theirs in zip(passed(quantizer, w), passed(row, w.view(1, -1)), strict=True):
        torch.testing.assert_close(ours, theirs.view(w.shape))


def test_statsq_of_a_kernel_has_no_step_for_its_rows() -> None:
    w = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(StatsQuantizer(2).step(w), w.abs().mean((1, 2, 3)))


@pytest.mark.parametrize("axis", [2, -3, (1, 2)])
def test_an_axis_that_a_weight_does_not_have_is_refused(axis: Any) -> None:
    with pytest.raises(ValueError, match="a tensor with 2 axes has no axis"):
        calibrate(LSQQuantizer(2, axis=axis), [torch.randn(3, 4)])


@pytest.mark.parametrize("axis", [1, -2, -1, (0, 1)])
def test_an_axis_that_a_convolution_cannot_mean_is_refused(axis: Any) -> None:
    with pytest.raises(ValueError, match=r"a step for each output channel \(axis 0\) or one for all"):
        QuantConv2d(4, 6, (3, 3), weight_quantizer=LSQQuantizer(2, axis=axis))


class Widest(Quantizer):
    """Takes every weight for a matrix."""

    def step(self, w: Tensor) -> Tensor:
        return w.abs().amax(1)


def test_a_quantizer_that_takes_a_convolution_for_a_matrix_is_told_how_many_steps_it_needs() -> None:
    with pytest.raises(ValueError, match=r"Widest gives 54 steps for \(6, 4, 3, 3\), which has 6 along axis 0"):
        QuantConv2d(4, 6, (3, 3), weight_quantizer=Widest(2))


def test_the_axis_of_weights_is_a_setting_that_stands_only_where_it_is_not_usual() -> None:
    assert "weight_axis" not in QuantConfig(weight_axis="channel").model_dump()
    assert QuantConfig(weight_axis="tensor").model_dump()["weight_axis"] == "tensor"
    with pytest.raises(ValueError, match="weight_axis"):
        QuantConfig(weight_axis="row")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight_axis: widest:Widest takes no argument `axis`"):
        QuantConfig(weight="widest:Widest", weight_axis="tensor")
    model: Any = quantize_model(small_model(), QuantConfig(weight="lsq", weight_axis="tensor", qkr=True))
    calibrate(model, [torch.randn(4, 1, 8, 8)])
    assert all(
        len(q.scale) == 1 for q in (model.blocks[0].mlp.fc1.weight_quantizer, model.blocks[0].attn.weight_quantizer)
    )
    assert len(model.head.weight_quantizer.scale) == 5, "the edges of a vision transformer keep theirs"


@pytest.mark.parametrize("bits", [1, 9, 16, 31, 33])
def test_activations_have_few_bits_or_are_float(bits: int) -> None:
    with pytest.raises(
        ValueError, match=f"activations have 2 to 8 bits, or 32 for none that are quantized, not {bits}"
    ):
        QuantConfig(input_bits=bits)


@pytest.mark.parametrize("qkr", [False, True])
def test_with_32_bits_no_activation_is_quantized(qkr: bool) -> None:
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = quantize_model(small_model(), QuantConfig(weight="lsq", input_bits=32, qkr=qkr))
    found = {name for name, module in model.named_modules() if isinstance(module, Quantizer)}
    assert found and all(name.endswith("weight_quantizer") for name in found)
    calibrate(model, [images])
    model(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
