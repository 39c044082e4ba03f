"""The oscillation meter: the rule, the bookkeeping, and that it only looks."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ofq.oscillation import OscillationMeter
from ofq.quant import block_weights
from ofq.quant.weights import record_codes
from tests.quant import reference
from tests.quant.small import train_step

WALKS = st.lists(st.lists(st.sampled_from([-128, -2, -1, 0, 1, 127]), min_size=3, max_size=3), min_size=1, max_size=12)


@given(WALKS, st.sampled_from([0.01, 0.5, 1.0]))
def test_meter_agrees_with_one_weight_at_a_time(walk: list[list[int]], momentum: float) -> None:
    meter = OscillationMeter(momentum)
    slow = [reference.Meter(momentum) for _ in range(3)]
    for codes in walk:
        tensor = torch.tensor(codes, dtype=torch.int8)
        meter.update({"a": tensor[:2].view(2, 1), "b": tensor[2:]})
        for one, code in zip(slow, codes, strict=True):
            one.update(code)
    assert meter.names == ["a", "b"] and meter.frequency("a").shape == (2, 1)
    frequency = torch.cat([meter.frequency("a").flatten(), meter.frequency("b")])
    torch.testing.assert_close(frequency, torch.tensor([one.frequency for one in slow]))
    reversals = torch.cat([meter.reversals("a").flatten(), meter.reversals("b")])
    assert reversals.tolist() == [one.reversals for one in slow]
    assert meter.direction("b").tolist() == [slow[2].direction]


def test_a_change_in_the_same_direction_is_no_oscillation() -> None:
    meter = OscillationMeter()
    for code in (0, 1, 1, 2, 2, 1, 1, 1, 2):
        meter.update({"w": torch.tensor([code], dtype=torch.int8)})
    assert meter.reversals("w").item() == 2


def _after(codes: list[list[int]], meter: OscillationMeter) -> OscillationMeter:
    for row in codes:
        meter.update({"w": torch.tensor(row[:2], dtype=torch.int8), "v.x": torch.tensor(row[2:], dtype=torch.int8)})
    return meter


def test_state_survives_saving_and_a_fresh_meter_goes_on() -> None:
    codes = [[i % 2, i % 3, -(i % 2)] for i in range(20)]
    whole = _after(codes, OscillationMeter(0.1))
    file = io.BytesIO()
    torch.save(_after(codes[:9], OscillationMeter(0.1)).state_dict(), file)
    file.seek(0)
    fresh = OscillationMeter(0.1)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    _after(codes[9:], fresh)
    expected = whole.state_dict()
    assert fresh.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in fresh.state_dict().items())


def test_a_saved_state_does_not_change_with_the_meter() -> None:
    meter = _after([[0, 0, 0], [1, 1, 1]], OscillationMeter())
    state = meter.state_dict()
    kept = {key: value.clone() for key, value in state.items()}
    _after([[0, 0, 0]], meter)
    assert all(torch.equal(state[key], kept[key]) for key in state)
    fresh = OscillationMeter()
    fresh.load_state_dict(state)
    _after([[0, 0, 0]], fresh)
    assert all(torch.equal(state[key], kept[key]) for key in state)


def test_an_unused_meter_can_be_saved() -> None:
    fresh = OscillationMeter()
    fresh.load_state_dict(OscillationMeter().state_dict())
    assert fresh.names == [] and fresh.share() == {}


def test_reset_keeps_everything_but_the_counts() -> None:
    meter = _after([[0, 0, 0], [1, 1, 1], [0, 0, 0]], OscillationMeter())
    frequency = meter.frequency("w").clone()
    meter.reset_reversals()
    assert meter.reversals("w").tolist() == [0, 0] and torch.equal(meter.frequency("w"), frequency)
    _after([[1, 0, 0]], meter)  # against the last direction, which was kept
    assert meter.reversals("w").tolist() == [1, 0]


def test_share_is_in_percent_and_strictly_above() -> None:
    meter = _after([[0, 0, 0], [1, 1, 0], [0, 1, 0]], OscillationMeter(0.5))
    assert meter.share(0.4) == {"w": 50.0, "v.x": 0.0}
    assert meter.share(0.5) == {"w": 0.0, "v.x": 0.0}


def test_names_and_shapes_are_fixed_at_the_first_update() -> None:
    meter = OscillationMeter()
    with pytest.raises(ValueError, match="no codes"):
        meter.update({})
    meter.update({"a": torch.zeros(2), "b": torch.zeros(3)})
    meter.update({"b": torch.ones(3), "a": torch.zeros(2)})  # order does not matter
    assert meter.direction("b").tolist() == [-1, -1, -1] and meter.direction("a").tolist() == [0, 0]
    for wrong in (
        {"a": torch.zeros(2)},
        {"a": torch.zeros(2), "b": torch.zeros(4)},
        {"a": torch.zeros(2), "c": torch.zeros(3)},
    ):
        with pytest.raises(ValueError, match=r"'[bc]' differs"):
            meter.update(wrong)
    with pytest.raises(KeyError, match="no 'c'"):
        meter.frequency("c")


@pytest.mark.parametrize(
    "wrong", [torch.randn(3), torch.tensor([0.0, float("nan")]), torch.tensor([float("inf")]), torch.ones(0), [1, 2]]
)
def test_what_is_no_code_is_refused_and_counts_nothing(wrong: Any) -> None:
    meter = OscillationMeter()
    for _ in range(2):
        with pytest.raises(ValueError, match="codes of 'b' should be a tensor of whole numbers"):
            meter.update({"a": torch.zeros(2), "b": wrong})
        with pytest.raises(ValueError, match="the meter takes codes by name"):
            meter.update(wrong)
    assert meter.names == []


def test_a_foreign_state_is_an_error() -> None:
    state = _after([[0, 0, 0]], OscillationMeter()).state_dict()
    with pytest.raises(ValueError, match="momentum"):
        OscillationMeter(0.5).load_state_dict(state)
    with pytest.raises(ValueError, match="incomplete"):
        OscillationMeter().load_state_dict({k: v for k, v in state.items() if k != "direction/w"})
    with pytest.raises(ValueError, match="unknown entry 'other/w'"):
        OscillationMeter().load_state_dict({**state, "other/w": torch.zeros(1)})
    other = OscillationMeter()
    other.update({"z": torch.zeros(1)})
    with pytest.raises(ValueError, match="first update"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match="momentum"):
        OscillationMeter(0.0)


def test_the_meter_changes_nothing(
    make: Callable[[], nn.Module], images: Tensor, labels: Tensor, switches: Any
) -> None:
    states = []
    for metered in (False, True):
        model = make()
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        meter, weights = OscillationMeter(), block_weights(model)
        if metered:
            record_codes(model)
        for _ in range(4):
            train_step(model, optimizer, images, labels)
            if metered:
                meter.update({weight.name: weight.last_codes() for weight in weights})
        states.append(model.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert meter.names == [weight.name for weight in weights]


def test_a_state_goes_on_where_the_codes_are() -> None:
    meter, other = OscillationMeter(), OscillationMeter()
    meter.update({"w": torch.tensor([1, 2])})
    other.load_state_dict(meter.state_dict())
    other.update({"w": torch.empty(2, dtype=torch.int64, device="meta")})
    other.update({"w": torch.empty(2, dtype=torch.int64, device="meta")})
    assert other.frequency("w").is_meta and other.reversals("w").is_meta
