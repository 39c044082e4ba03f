"""Confidence-guided annealing: frozen means frozen."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ofq.quant import QuantConfig, StatsQuantizer, block_weights, calibrate, quantize_model
from ofq.remedies import Annealing, ConfidenceGuidedAnnealing, FrozenWeights, Remedy, confidence_mask
from ofq.remedies.cga import stacks
from tests.quant.small import small_model


@given(st.integers(2, 4), st.integers(0, 2**31), st.floats(0, 0.49))
def test_mask_agrees_with_a_loop_over_all_thresholds(bits: int, seed: int, r: float) -> None:
    w = torch.randn(6, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    w = w.abs() if seed % 2 else w
    u = StatsQuantizer(bits).position(w)
    codes = u.round()
    free = torch.zeros_like(w, dtype=torch.bool)
    for i in range(int(codes.min()), int(codes.max())):
        free |= (0.5 - r <= u - i) & (u - i <= 0.5 + r)
    assert torch.equal(confidence_mask(w, bits, r), ~free)


def test_the_mask_of_a_convolution_is_that_of_its_channels_as_rows() -> None:
    w = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = confidence_mask(w, 3, 0.1)
    assert torch.equal(mask, confidence_mask(w.flatten(1), 3, 0.1).view(w.shape)) and mask.any() and not mask.all()


def test_ends_of_the_band_are_free_and_clamped_weights_are_not() -> None:
    # mean|w| = 1, so at two bits the thresholds are w = -1, 0, 1 and the step is 1: the band is w -+ 1/4.
    w = torch.tensor([[0.25, 0.75, 1.25, -0.25, -0.75, -1.25, 0.375, 1.375, 2.75]])
    assert w.abs().mean() == 1
    assert confidence_mask(w, 2, 0.25).tolist() == [[False] * 6 + [True] * 3]
    assert confidence_mask(w, 2, 0.0).all()


NAN, INFINITE = torch.tensor([[0.5, float("nan")]]), torch.tensor([[float("inf")], [0.5]])


@pytest.mark.parametrize(
    ("w", "r", "message"),
    [
        (NAN, 0.1, "w holds values that are not finite"),
        (INFINITE, 0.1, "w holds values that are not finite"),
        ([[0.5]], 0.1, "w must be a matrix or a convolution's weight, of floating-point numbers, not list"),
        (torch.ones(0, 3), 0.1, r"not torch\.float32 \(0, 3\)"),
        (torch.ones(3), 0.1, r"not torch\.float32 \(3,\)"),
        (torch.ones(2, 3, 4), 0.1, r"not torch\.float32 \(2, 3, 4\)"),
        (torch.ones(2, 3, dtype=torch.int8), 0.1, r"not torch\.int8 \(2, 3\)"),
        (torch.ones(2, 3), float("nan"), "not nan"),
        (torch.ones(2, 3), "0.1", "boundary_range must be at least 0 and below 0.5 code steps, not '0.1'"),
    ],
)
def test_a_mask_of_what_is_no_matrix_of_numbers_is_refused(w: Any, r: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confidence_mask(w, 2, r)


def test_a_threshold_next_to_an_unused_code_does_not_count() -> None:
    w = torch.tensor([[1e-4, 1.0, 2.0, 1.5]])  # no code below 0, so the threshold at 0 does not exist
    assert confidence_mask(w, 2, 0.1)[0, 0]
    assert not confidence_mask(torch.cat([w, -w]), 2, 0.1)[0, 0]


@pytest.mark.parametrize("r", [-0.1, 0.5, 0.7, float("nan")])
def test_bad_range_is_named(r: float) -> None:
    with pytest.raises(ValueError, match="boundary_range"):
        confidence_mask(torch.randn(2, 3), 2, r)
    with pytest.raises(ValueError, match="boundary_range"):
        ConfidenceGuidedAnnealing(quantize_model(small_model(), QuantConfig()), r)


def test_a_float_model_cannot_be_annealed() -> None:
    with pytest.raises(ValueError, match="quantize_model"):
        ConfidenceGuidedAnnealing(small_model(), 0.1)


def _governed(model: nn.Module) -> dict[str, nn.Parameter]:
    layers = {id(w.layer): w for w in block_weights(model) if w.group != "qk"}
    return {w.name: w.layer.weight for w in layers.values()}  # type: ignore[misc]


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_frozen_weights_do_not_move(
    make: Callable[[], nn.Module], images: Tensor, labels: Tensor, optimizer: Any
) -> None:
    model = make()
    momentum = {} if optimizer is torch.optim.AdamW else {"momentum": 0.9}
    steps = optimizer(model.parameters(), lr=1e-2, weight_decay=0.5, **momentum)

    def backward() -> None:
        steps.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()

    backward()
    steps.step()  # momentum that would move every weight
    remedy = ConfidenceGuidedAnnealing(model, 0.1)
    moved = 0
    for _ in range(3):
        backward()
        before = {name: w.detach().clone() for name, w in _governed(model).items()}
        remedy.before_update(0.0)
        frozen = dict(zip(before, remedy._frozen, strict=True))
        assert all(bool((w.grad[frozen[name]] == 0).all()) for name, w in _governed(model).items())  # type: ignore[index]
        steps.step()
        remedy.after_update(0.0)
        for name, weight in _governed(model).items():
            assert torch.equal(weight[frozen[name]], before[name][frozen[name]])
            moved += int((weight != before[name]).sum())
    assert moved > 0
    assert 0 < remedy.metrics()["cga/free_share"] < 100


def test_stacked_weights_are_annealed_as_each_alone(make: Callable[[], nn.Module]) -> None:
    """On a card; here the stacks are made by hand."""
    masks = []
    for together in (False, True):
        remedy = ConfidenceGuidedAnnealing(make(), 0.1)
        remedy._stacks = stacks(remedy.layers.values(), together=together)
        remedy.before_update(0.0)
        masks.append(remedy._frozen)
        assert (len(remedy._stacks) < len(remedy.layers)) == together
    assert all(torch.equal(one, other) for one, other in zip(*masks, strict=True))


def test_an_infinite_gradient_of_a_frozen_weight_does_not_survive(make: Callable[[], nn.Module]) -> None:
    model = make()
    remedy = ConfidenceGuidedAnnealing(model, 0.01)
    for weight in _governed(model).values():
        weight.grad = torch.full_like(weight, torch.inf)
        weight.grad[0] = torch.nan
    remedy.before_update(0.0)
    for weight, frozen in zip(_governed(model).values(), remedy._frozen, strict=True):
        assert weight.grad is not None and (weight.grad[frozen] == 0).all() and frozen.any()


@pytest.mark.parametrize("freeze_qk", [True, False])
def test_query_and_key_weights_stand_still_unless_told_otherwise(
    images: Tensor, labels: Tensor, freeze_qk: bool
) -> None:
    model: Any = quantize_model(small_model(), QuantConfig(qkr=True))
    calibrate(model, [images])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    remedy: Remedy = ConfidenceGuidedAnnealing(model, 0.1, freeze_qk=freeze_qk)
    before = [block.attn.q.weight.detach().clone() for block in model.blocks]
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        remedy.before_update(0.0)
        optimizer.step()
        remedy.after_update(0.0)
    same = [torch.equal(block.attn.q.weight, old) for block, old in zip(model.blocks, before, strict=True)]
    assert all(same) if freeze_qk else not any(same)


@pytest.mark.parametrize("qkr", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_the_controls_hold_all_block_weights_or_none(images: Tensor, labels: Tensor, qkr: bool, held: bool) -> None:
    model: Any = quantize_model(small_model(), QuantConfig(qkr=qkr))
    calibrate(model, [images])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    remedy = FrozenWeights(model) if held else Annealing(model)
    total = [layer.weight.numel() for layer in remedy.layers.values()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        remedy.before_update(0.0)
        optimizer.step()
        remedy.after_update(0.0)
        assert remedy.free() == ([0] * len(total) if held else total)
    governed = {f"{name}.weight" for name in remedy.layers}
    governed |= {name for name in before if name.endswith(("attn.q.weight", "attn.k.weight"))}
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not moved & governed if held else governed <= moved
    assert {"head.weight", "blocks.0.norm1.weight", "blocks.0.mlp.fc1.bias"} <= moved


def test_a_remedy_does_nothing_by_default_and_keeps_no_state() -> None:
    remedy = Remedy()
    remedy.before_update(0.0)
    remedy.after_update(0.0)
    assert remedy.metrics() == {} and remedy.state_dict() == {}
    remedy.load_state_dict({})
    with pytest.raises(ValueError, match="keeps no state"):
        remedy.load_state_dict({"mask": 1})
