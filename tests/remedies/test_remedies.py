"""Dampening draws weights to their levels, freezing holds their codes, and both begin when they should."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ofq.config.settings import RemedySettings
from ofq.errors import UserError
from ofq.oscillation.recorder import OscillationRecorder
from ofq.quant import QuantConfig, calibrate, quantize_model
from ofq.quant.families.base import WeightLayer
from ofq.quant.hook import Hook
from ofq.remedies import Dampening, IterativeFreezing, Remedy, governed_layers
from ofq.remedies.base import annealed, weight_quantizer
from ofq.remedies.freezing import FrozenCodes
from ofq.remedies.load import make_remedy
from tests.docs.pages import blocks
from tests.quant.small import small_model

STEPS = 40
EAGER = {"threshold": 0.01, "first_threshold": 0.01, "start": 0.1, "momentum": 0.2}  # freezes within a few steps


class Training:
    """A quantized model under a remedy at a rate at which weights oscillate."""

    def __init__(self, model: nn.Module, remedy: Remedy, images: Tensor, labels: Tensor) -> None:
        self.model, self.remedy, self.images, self.labels = model, remedy, images, labels
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2, weight_decay=0.1)

    def step(self) -> None:
        loss = nn.functional.cross_entropy(self.model(self.images), self.labels)
        term = self.remedy.loss()
        self.optimizer.zero_grad()
        (loss if term is None else loss + term).backward()
        self.remedy.before_update(0.0)
        self.optimizer.step()
        self.remedy.after_update(0.0)


@pytest.mark.parametrize(("step", "value"), [(1, 0.0), (24, 0.0), (25, 0.0), (62.5, 0.05), (100, 0.1)])
def test_a_schedule_begins_at_a_quarter_and_ends_at_the_last_step(step: int, value: float) -> None:
    assert annealed(step, 100, start=0.25, first=0.0, last=0.1) == pytest.approx(value, abs=1e-9)


def test_nothing_acts_in_the_first_quarter(make: Callable[[], nn.Module], images: Tensor, labels: Tensor) -> None:
    frozen, damped = make(), make()
    freezing = Training(frozen, IterativeFreezing(frozen, STEPS, threshold=1e-6, first_threshold=1e-6), images, labels)
    dampening = Training(damped, Dampening(damped, STEPS, weight=10), images, labels)
    plain = Training(make(), Remedy(), images, labels)
    for _ in range(STEPS // 4 - 1):
        for training in (freezing, dampening, plain):
            training.step()
    for training in (freezing, dampening):
        assert same(training.model, plain.model)
    for _ in range(4):
        for training in (freezing, dampening, plain):
            training.step()
    for training in (freezing, dampening):
        assert not same(training.model, plain.model)


def test_a_weight_of_zero_changes_no_number(make: Callable[[], nn.Module], images: Tensor, labels: Tensor) -> None:
    damped = make()
    dampening = Training(damped, Dampening(damped, STEPS, weight=0, start=0), images, labels)
    plain = Training(make(), Remedy(), images, labels)
    for _ in range(5):
        dampening.step()
        plain.step()
    assert same(dampening.model, plain.model) and dampening.remedy.metrics() == {}


def test_dampening_draws_weights_to_their_levels(make: Callable[[], nn.Module]) -> None:
    """Descent on the term alone; what is clamped stays."""
    model = make()
    remedy = Dampening(model, 1, weight=1, start=0)
    assert all(layer.weight.grad is None for layer in governed_layers(model).values())
    before = {name: distances(layer) for name, layer in governed_layers(model).items()}
    term = remedy.loss()
    assert term is not None
    term.backward()
    for layer in governed_layers(model).values():
        inputs = layer.weight[0].numel()
        with torch.no_grad():
            w, values = layer.weight, weight_quantizer(layer)(layer.weight)
            levels = weight_quantizer(layer).spread_step(w)
            half = 2.0 ** (weight_quantizer(layer).bits - 1)
            shift = weight_quantizer(layer).offset
            inside = (w > levels * (shift - half)) & (w < levels * (half - 1 + shift))
            expected = torch.where(inside, 2 * (w - values) / inputs, 0.0)
            torch.testing.assert_close(layer.weight.grad, expected, atol=1e-7, rtol=1e-4)
            assert layer.weight.grad is not None
            layer.weight -= layer.weight.grad * inputs / 4  # half of the way
        # StatsQ's step follows the weights, so that not every one ends nearer to a level than it was.
        assert distances(layer).mean() < before[name_of(model, layer)].mean()
    others = [p for name, p in model.named_parameters() if not name.endswith("weight")]
    assert all(p.grad is None for p in others), "neither steps nor biases are drawn anywhere"


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_frozen_weight_keeps_its_code(
    make: Callable[[], nn.Module], images: Tensor, labels: Tensor, optimizer: str
) -> None:
    model = make()
    remedy = IterativeFreezing(model, STEPS, **EAGER)
    training = Training(model, remedy, images, labels)
    if optimizer == "sgd":
        training.optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=0.1)  # type: ignore[assignment]
    for _ in range(STEPS):
        before = {name: mask.clone() for name, mask in remedy.rule.frozen.items()}
        codes = dict(remedy.rule.codes)
        training.step()
        for name, layer in governed_layers(model).items():
            frozen = remedy.rule.frozen.get(name)
            if frozen is None:
                continue
            at = weight_quantizer(layer).codes(layer.weight)
            assert torch.equal(at[frozen], remedy.rule.codes[name][frozen])
            if name in before:
                assert frozen[before[name]].all(), "frozen for good"
                assert torch.equal(codes[name][before[name]], remedy.rule.codes[name][before[name]])
                assert layer.weight.grad is not None and (layer.weight.grad[frozen] == 0).all()
    assert 0 < remedy.metrics()["freezing/share"] < 100


def test_under_a_statistical_step_a_frozen_weight_stands_still_unless_its_code_would_change(
    images: Tensor, labels: Tensor
) -> None:
    model = quantize_model(small_model(), QuantConfig(weight="statsq"))
    calibrate(model, [images])
    remedy = IterativeFreezing(model, STEPS, **EAGER)
    training = Training(model, remedy, images, labels)
    moved = frozen = 0
    for _ in range(STEPS):
        before = {name: layer.weight.detach().clone() for name, layer in governed_layers(model).items()}
        held = {name: mask.clone() for name, mask in remedy.rule.frozen.items()}
        training.step()
        for name, mask in held.items():
            moved += int((governed_layers(model)[name].weight != before[name])[mask].sum())
            frozen += int(mask.sum())
    assert frozen > 1000
    assert moved < 0.03 * frozen, "at a rate at which the steps of these short rows move by percents"


def test_a_row_that_is_wholly_frozen_keeps_its_step(images: Tensor, labels: Tensor) -> None:
    model = quantize_model(small_model(), QuantConfig(weight="statsq"))
    calibrate(model, [images])
    remedy = IterativeFreezing(model, STEPS, **(EAGER | {"start": 0.0}))
    training = Training(model, remedy, images, labels)
    training.step()
    for name, layer in governed_layers(model).items():
        remedy.rule.frozen[name][0] = True
        remedy.rule.codes[name][0] = weight_quantizer(layer).codes(layer.weight)[0]
    training.step()
    steps = [weight_quantizer(layer).step(layer.weight)[0].item() for layer in governed_layers(model).values()]
    for _ in range(10):
        training.step()
    assert steps == [weight_quantizer(layer).step(layer.weight)[0].item() for layer in governed_layers(model).values()]


def test_a_remedy_goes_on_as_if_it_had_not_stopped(
    make: Callable[[], nn.Module], images: Tensor, labels: Tensor
) -> None:
    for kind, arguments in ((IterativeFreezing, EAGER), (Dampening, {"weight": 1.0, "start": 0.1})):
        whole = make()
        training = Training(whole, kind(whole, STEPS, **arguments), images, labels)
        for _ in range(12):
            training.step()
        file = io.BytesIO()
        torch.save([whole.state_dict(), training.optimizer.state_dict(), training.remedy.state_dict()], file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        resumed = make()
        other = Training(resumed, kind(resumed, STEPS, **arguments), images, labels)
        resumed.load_state_dict(state[0])
        other.optimizer.load_state_dict(state[1])
        other.remedy.load_state_dict(state[2])
        for _ in range(12):
            training.step()
            other.step()
        assert same(whole, resumed) and training.remedy.metrics() == other.remedy.metrics()


@given(st.integers(0, 2**31))
def test_a_frozen_code_is_the_rounded_mean_of_the_codes_before(seed: int) -> None:
    codes = torch.randint(-2, 2, (30, 6), generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    rule = FrozenCodes(0.1)
    mean = codes[0].float()
    frozen: dict[int, int] = {}
    for row in codes:
        held = row.clone()
        for i, code in frozen.items():
            held[i] = code
        new = rule.update({"w": held}, 0.15)["w"]
        frozen |= {i: int(mean[i].round()) for i in new.nonzero().flatten().tolist()}
        mean = 0.1 * held.float() + 0.9 * mean
    assert {i: int(rule.codes["w"][i]) for i in rule.frozen["w"].nonzero().flatten().tolist()} == frozen


def test_a_state_that_lacks_a_part_changes_nothing(make: Callable[[], nn.Module]) -> None:
    model = make()
    hooks: dict[Hook, tuple[str, ...]] = {
        IterativeFreezing(model, STEPS, **EAGER): ("step", "rule"),
        OscillationRecorder(model): ("meter", "rows", "steps"),
    }
    for hook, parts in hooks.items():
        model(torch.rand(2, 1, 8, 8))
        hook.before_update(0.1)
        hook.after_update(0.1)
        state = hook.state_dict()
        fresh = IterativeFreezing(model, STEPS, **EAGER) if isinstance(hook, Remedy) else OscillationRecorder(model)
        before = repr(fresh.state_dict())
        for part in parts:
            with pytest.raises(KeyError, match=part):
                fresh.load_state_dict({name: value for name, value in state.items() if name != part})
            assert repr(fresh.state_dict()) == before
        fresh.load_state_dict(state)
        assert repr(fresh.state_dict()) == repr(state) != before


def test_batches_of_an_evaluation_count_as_steps_if_the_released_code_is_followed(
    make: Callable[[], nn.Module], images: Tensor, labels: Tensor
) -> None:
    model = make()
    plain, counting, resumed = (
        IterativeFreezing(model, 4 * STEPS, momentum=0.1, evaluated=count) for count in (0, 5, 5)
    )
    training = Training(model, plain, images, labels)
    for _ in range(STEPS // 2):
        training.step()
    plain.before_update(0.0)  # after it the codes stay
    plain.after_update(0.0)
    counting.load_state_dict(plain.state_dict())
    name = max(governed_layers(model), key=lambda name: plain.rule.meter.frequency(name).max().item())
    before = plain.rule.meter.frequency(name).clone()
    assert before.max() > 0.05
    assert "waiting" not in plain.state_dict()
    for remedy in (plain, counting):
        remedy.metrics()
    saved = io.BytesIO()
    torch.save(counting.state_dict(), saved)
    resumed.load_state_dict(torch.load(io.BytesIO(saved.getvalue())))
    for remedy, steps in ((plain, 1), (counting, 6), (resumed, 6)):
        remedy.before_update(0.0)
        torch.testing.assert_close(remedy.rule.meter.frequency(name), before * 0.9**steps)


def test_dampening_may_begin_with_a_weight_and_reach_the_first_and_the_last_layer(
    make: Callable[[], nn.Module],
) -> None:
    model = make()
    everywhere = Dampening(model, 8, weight=0.1, first_weight=0.1, start=0.0, everywhere=True)
    assert [everywhere._weight(step) for step in (1, 4, 8)] == pytest.approx([0.1] * 3)
    term, own = everywhere.loss(), Dampening(model, 8, weight=0.1, first_weight=0.1).loss()
    assert term is not None and own is not None and term > own
    own.backward()
    own_layers = {id(layer) for layer in governed_layers(model).values()}
    layers = [each for each in model.modules() if isinstance(each, WeightLayer) and each.weight_quantizer is not None]
    edges = [layer.weight for layer in layers if id(layer) not in own_layers]
    assert len(edges) == 2 and all(weight.grad is None for weight in edges)
    term.backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in edges)


def test_query_and_key_weights_are_left_alone() -> None:
    governed = governed_layers(quantize_model(small_model(), QuantConfig(qkr=True)))
    assert {name.rsplit(".", 1)[1] for name in governed} == {"v", "proj", "fc1", "fc2"}


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (Dampening, {"weight": -0.1}, "weight must be at least 0"),
        (Dampening, {"weight": float("nan")}, "weight must be at least 0 and finite, not nan"),
        (Dampening, {"weight": float("inf")}, "weight must be at least 0 and finite, not inf"),
        (Dampening, {"first_weight": -1.0}, "first_weight must be at least 0"),
        (IterativeFreezing, {"evaluated": -1}, "evaluated must be a whole number from 0 on, not -1"),
        (IterativeFreezing, {"evaluated": 0.5}, "evaluated must be a whole number from 0 on, not 0.5"),
        (Dampening, {"start": float("nan")}, "start must be"),
        (Dampening, {"steps": 0}, "steps must be a whole number above 0, not 0"),
        (IterativeFreezing, {"steps": 10.5}, "steps must be a whole number above 0, not 10.5"),
        (IterativeFreezing, {"threshold": float("nan")}, "threshold must be above 0"),
        (Dampening, {"start": 1.0}, "start must be"),
        (IterativeFreezing, {"threshold": 0.0}, "threshold must be above 0"),
        (IterativeFreezing, {"first_threshold": 2.0}, "first_threshold must be above 0"),
        (IterativeFreezing, {"start": -0.1}, "start must be"),
        (IterativeFreezing, {"momentum": 0.0}, "momentum must be above 0"),
    ],
)
def test_a_bad_argument_is_named(kind: Any, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(quantize_model(small_model(), QuantConfig()), **({"steps": STEPS} | arguments))


def test_an_argument_of_another_type_is_the_users_mistake() -> None:
    model = quantize_model(small_model(), QuantConfig())
    for name, arguments in (("dampening", {"weight": "much"}), ("freezing", {"start": "late"})):
        with pytest.raises(UserError, match=f"remedy {name}: .*mend its arguments in params.yaml"):
            make_remedy(RemedySettings(name=name, arguments=arguments), model, STEPS)


def test_weights_of_more_than_four_bits_are_not_frozen() -> None:
    with pytest.raises(ValueError, match="at most 4 bits"):
        IterativeFreezing(quantize_model(small_model(), QuantConfig(weight="lsq", weight_bits=5)), STEPS)


def same(model: nn.Module, other: nn.Module) -> bool:
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def name_of(model: nn.Module, layer: nn.Module) -> str:
    return next(name for name, other in model.named_modules() if other is layer)


def distances(layer: Any) -> Tensor:
    """Distance to the nearest level in code steps, clamped ones 0."""
    position = weight_quantizer(layer).position(layer.weight)
    return (position - position.round()).abs()


@pytest.mark.parametrize("weight", ["lsq", "lsq-midrise", "statsq"])
def test_the_loss_of_the_guide_draws_weights_to_their_values(weight: Any, images: Tensor) -> None:
    model = quantize_model(small_model(), QuantConfig(weight=weight))
    calibrate(model, [images])
    guide: dict[str, Any] = {}
    exec("\n".join(blocks("add-a-remedy.md", "python")), guide)
    guide["Calm"](model, STEPS).loss().backward()
    for layer in governed_layers(model).values():
        values = weight_quantizer(layer).rounded(layer.weight).values.detach()
        assert layer.weight.grad is not None and layer.weight.grad.any()
        torch.testing.assert_close(layer.weight.grad, 0.2 * (layer.weight.detach() - values) / values.numel())
