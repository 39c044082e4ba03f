"""What the observers of a window count, against the same counted again from what a window went through."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ofq.oscillation import OscillationMeter
from ofq.oscillation.boundary import BAND, BoundaryObserver
from ofq.oscillation.coupling import CouplingObserver
from ofq.oscillation.recorder import OscillationRecorder
from ofq.oscillation.thresholds import DISTANCE_BINS, lift, threshold_distance
from ofq.quant import QuantConfig, StatsQuantizer, block_weights, calibrate, quantize_model
from tests.quant.small import small_cnn, small_model, train_step

STEPS = 12


def in_window(
    model: nn.Module, images: Tensor, labels: Tensor, hooks: list[Any], look: Callable[[], None] | None = None
) -> None:
    """Train as the loop does, with hooks and a look between the backward pass and the update."""
    # So fast that codes turn round within some steps.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    step = optimizer.step

    def observed(closure: Any = None) -> None:
        for hook in hooks:
            hook.before_update(0.0)
        if look is not None:
            look()
        step()
        for hook in hooks:
            hook.after_update(0.0)

    optimizer.step = observed  # type: ignore[method-assign]
    for number in range(STEPS):
        train_step(model, optimizer, images.roll(number, 0), labels)


def turned(codes: list[np.ndarray]) -> np.ndarray:
    """Which codes turn round from each entry to the next, weight by weight: (entries - 1, weights)."""
    found = np.zeros((len(codes) - 1, codes[0].size), dtype=bool)
    for i in range(codes[0].size):
        last = 0
        for t in range(len(codes) - 1):
            change = int(np.sign(int(codes[t + 1][i]) - int(codes[t][i])))
            found[t, i] = change * last < 0
            last = change or last
    return found


def flat(tensors: list[Tensor]) -> np.ndarray:
    return torch.cat([tensor.flatten() for tensor in tensors]).detach().clone().numpy()


def test_boundary_and_band_count_what_every_weight_did(
    make: Callable[[], nn.Module], images: Tensor, labels: Tensor
) -> None:
    model = make()
    recorder = OscillationRecorder(model)
    boundary = BoundaryObserver(recorder)
    weights = [weight for weight in recorder.weights if weight.group != "qk"]
    distances, signs, codes = [], [], []

    def look() -> None:
        distances.append(flat([threshold_distance(weight.position()) for weight in weights]))
        signs.append(np.sign(flat([weight.layer.weight.grad[weight.rows] for weight in weights])))
        codes.append(flat([weight.codes() for weight in weights]))

    in_window(model, images, labels, [recorder, boundary], look)
    recorder.finish()
    boundary.finish()
    codes.append(flat([weight.codes() for weight in weights]))

    counted = boundary.boundary()
    assert (
        counted["left"][:3] == [0.0, 0.02, 0.04]
        and counted["left"][-1] == 0.48
        and len(counted["left"]) == DISTANCE_BINS
    )
    bins = np.minimum((np.array(distances) * 50).astype(int), DISTANCE_BINS - 1)  # (steps, weights)
    gradient_turned = np.zeros_like(bins, dtype=bool)
    gradient_turned[1:] = np.array(signs)[1:] * np.array(signs)[:-1] < 0
    reversed_codes = turned(codes)
    assert gradient_turned.sum() > 100 and reversed_codes.sum() > 10
    for name, counts in {
        "weight_steps": np.bincount(bins.ravel(), minlength=DISTANCE_BINS),
        "gradient_turns": np.bincount(bins[gradient_turned], minlength=DISTANCE_BINS),
        "reversals": np.bincount(bins[reversed_codes], minlength=DISTANCE_BINS),
    }.items():
        assert counted[name] == counts.tolist(), name
    assert sum(counted["weight_steps"]) == STEPS * len(distances[0])
    assert sum(counted["reversals"]) == sum(int(recorder.meter.reversals(weight.name).sum()) for weight in weights)

    near = np.array([distances[0] <= BAND, distances[-1] <= BAND])
    assert near.any(1).all()
    expected = {"start": near[0].sum(), "end": near[1].sum(), "both": near.all(0).sum()}
    assert boundary.band() == {"range": 0.005, "weights": len(distances[0]), **expected}


def test_widths_of_steps_are_recorded_from_before_the_first_update_to_after_the_last(
    make: Callable[[], nn.Module], images: Tensor, labels: Tensor
) -> None:
    model = make()
    recorder = OscillationRecorder(model)
    expected = []

    def widths() -> list[float]:
        found = []
        for weight in recorder.weights:
            w = weight.layer.latent_weight().detach().numpy()
            step = np.broadcast_to(weight.quantizer.step(torch.from_numpy(w)).numpy(), len(w))
            found.append(float((step / w.reshape(len(w), -1).std(1))[weight.rows].mean()))
        return found

    def look() -> None:
        if not expected:
            expected.append(widths())

    in_window(model, images, labels, [recorder], look)
    recorder.finish()
    expected.append(widths())
    record = recorder.oscillation()
    assert list(dict.fromkeys(record["step"])) == [0, STEPS]
    np.testing.assert_allclose(record["step_width"], np.concatenate(expected), rtol=1e-5)
    assert (record[record["step"] == 0][["share", "reversals"]] == 0).all(axis=None)
    assert recorder.metrics()["osc/step_width"] == pytest.approx(
        np.average(expected[1], weights=record[record["step"] == STEPS]["weights"])
    )
    assert not np.isclose(*expected).all()


def test_a_row_of_equal_weights_has_no_width_and_is_left_out() -> None:
    model: Any = statsq()
    weight = next(weight for weight in block_weights(model) if weight.group == "fc1")
    with torch.no_grad():
        weight.layer.weight[0] = 0.0
        weight.layer.weight[1] = 0.5
    w = weight.layer.weight.detach()[2:]
    assert weight.step_width() == pytest.approx(float((w.abs().mean(1) / w.std(1, correction=0)).mean()))


def test_a_matrix_without_deviation_has_no_width_to_log() -> None:
    """JSON knows no such number, and a run must not end for it."""
    model = statsq()
    recorder = OscillationRecorder(model)
    model(torch.rand(2, 1, 8, 8))
    recorder.before_update(0.1)
    weights = recorder.weights
    with torch.no_grad():
        for weight in weights[1:]:
            weight.layer.weight[weight.rows] = 0.25
    assert recorder.metrics()["osc/step_width"] == pytest.approx(weights[0].step_width())
    with torch.no_grad():
        weights[0].layer.weight[weights[0].rows] = 0.0
    assert "osc/step_width" not in recorder.metrics()


def statsq() -> nn.Module:
    model = quantize_model(small_model(), QuantConfig(weight="statsq"))
    calibrate(model, [torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))])
    return model


HEADS = [(block, head) for block in range(2) for head in range(2)]


def scripted(draw: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]) -> CouplingObserver:
    """What the observer makes of a window of 3,000 steps in which all codes of a head turn round at once, or none.

    Args:
        draw: for one step, which heads' queries and which heads' keys turn round.
    """
    model = statsq()
    recorder = OscillationRecorder(model)
    coupling = CouplingObserver(model, recorder)
    generator = np.random.default_rng(0)
    now = np.zeros((2, len(HEADS)), dtype=int)  # queries and keys
    moves = []
    for step in range(3001):
        codes = {}
        for block in range(2):
            for side, name in enumerate("qk"):
                by_head = torch.from_numpy(now[side, 2 * block : 2 * block + 2]).to(torch.int8)
                codes[f"blocks.{block}.attn.{name}"] = by_head.repeat_interleave(8)[:, None].expand(16, 16)
        recorder.meter.update(codes)
        if step == 2:  # from here on every change is one back
            recorder.meter.reset_reversals()
        if step >= 2:
            coupling.before_update(0.0)
        move = np.ones((2, len(HEADS)), dtype=bool) if step < 2 else np.stack(draw(generator))
        moves.append(move)
        now = np.where(move, 1 - now, now)
    moved = 128 * np.array(moves)[2:-1]  # (steps, side, head), in codes
    q, k = moved[:, 0], moved[:, 1]
    for place, entry in zip(HEADS, coupling.coupling(), strict=True):
        i = HEADS.index(place)
        others = np.delete(k, i, axis=1).mean(1)
        assert (entry["block"], entry["head"], entry["steps"]) == (*place, 2998)
        for name, value in {
            "q": q[:, i].mean(), "k": k[:, i].mean(), "same": (q[:, i] * k[:, i]).mean(),
            "other": (q[:, i] * others).mean(), "chance": q[:, i].mean() * k[:, i].mean(),
        }.items():  # fmt: skip
            assert entry[name] == pytest.approx(value), name
    assert coupling.codes == "own"
    return coupling


def lifts(coupling: CouplingObserver) -> list[float | None]:
    return [lift(coupling.coupling(), key) for key in ("same", "other")]


def test_codes_that_turn_round_independently_have_no_lift() -> None:
    same, other = lifts(scripted(lambda g: (g.random(4) < 0.3, g.random(4) < 0.3)))
    assert same == pytest.approx(1, abs=0.05) and other == pytest.approx(1, abs=0.05)


def test_query_and_key_of_a_head_that_turn_round_together_have_a_lift_of_their_own() -> None:
    def draw(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        head = generator.random(4) < 0.1
        return head, head

    same, other = lifts(scripted(draw))
    assert same == pytest.approx(10, rel=0.1) and other == pytest.approx(1, abs=0.1)


def test_steps_that_move_everything_lift_other_heads_just_as_much() -> None:
    def draw(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        share = 0.5 if generator.random() < 0.1 else 0.02
        return generator.random(4) < share, generator.random(4) < share

    same, other = lifts(scripted(draw))
    assert same is not None and same > 4 and other == pytest.approx(same, rel=0.1)


def test_a_window_in_which_nothing_turns_round_has_no_lift_at_all() -> None:
    still = np.zeros(4, dtype=bool)
    assert lifts(scripted(lambda generator: (still, still))) == [None, None]


@pytest.mark.parametrize("weight", ["statsq", "lsq"])
def test_under_qkr_the_codes_that_statsq_would_give_are_followed(weight: str, images: Tensor, labels: Tensor) -> None:
    model = quantize_model(small_model(), QuantConfig(weight=weight, qkr=True))  # type: ignore[arg-type]
    calibrate(model, [images])
    recorder = OscillationRecorder(model)
    coupling = CouplingObserver(model, recorder)
    meter = OscillationMeter()
    quantizer = StatsQuantizer(2)
    parts = {name: p for name, p in model.named_parameters() if name.endswith(("attn.q.weight", "attn.k.weight"))}

    def look() -> None:
        meter.update({name: quantizer.codes(parameter) for name, parameter in parts.items()})

    in_window(model, images, labels, [recorder, coupling], look)
    recorder.finish()
    coupling.finish()
    look()
    assert coupling.codes == "shadow"
    entries = coupling.coupling()
    assert [(entry["block"], entry["head"]) for entry in entries] == HEADS
    for entry in entries:
        for side in "qk":
            rows = slice(8 * entry["head"], 8 * entry["head"] + 8)
            total = meter.reversals(f"blocks.{entry['block']}.attn.{side}.weight")[rows].sum().item()
            assert entry[side] * STEPS == pytest.approx(total)
    assert sum(entry["q"] + entry["k"] for entry in entries) > 0


def test_a_head_without_others_has_no_control(images: Tensor, labels: Tensor) -> None:
    model = quantize_model(small_model(depth=1, num_heads=1), QuantConfig())
    calibrate(model, [images])
    recorder = OscillationRecorder(model)
    coupling = CouplingObserver(model, recorder)
    in_window(model, images, labels, [recorder, coupling])
    assert coupling.coupling()[0]["other"] is None
    assert lift(coupling.coupling(), "other") is None


def observed(model: nn.Module) -> tuple[OscillationRecorder, BoundaryObserver, CouplingObserver]:
    recorder = OscillationRecorder(model)
    return recorder, BoundaryObserver(recorder), CouplingObserver(model, recorder)


def test_saved_state_goes_on_as_if_nothing_had_happened(
    make: Callable[[], nn.Module], images: Tensor, labels: Tensor
) -> None:
    model = make()
    hooks = observed(model)
    later: list[tuple[OscillationRecorder, BoundaryObserver, CouplingObserver]] = []

    class Interruption:
        """After some steps, another set of hooks that got the state of the first, through a file."""

        steps = 0

        def before_update(self, lr: float) -> None:
            self.steps += 1
            if self.steps == 5:
                file = io.BytesIO()
                torch.save([hook.state_dict() for hook in hooks], file)
                file.seek(0)
                fresh = observed(model)
                for hook, state in zip(fresh, torch.load(file, weights_only=True), strict=True):
                    hook.load_state_dict(state)
                later.append(fresh)
            elif later:
                for hook in later[0]:
                    hook.before_update(0.0)

        def after_update(self, lr: float) -> None:
            pass

    in_window(model, images, labels, [*hooks, Interruption()])
    results = []
    for recorder, boundary, coupling in (hooks, later[0]):
        for hook in (recorder, boundary, coupling):
            hook.finish()
        results.append((boundary.boundary(), boundary.band(), coupling.coupling(), coupling.codes))
    assert results[0] == results[1]
    assert sum(results[0][0]["reversals"]) > 0


def test_observers_change_nothing(make: Callable[[], nn.Module], images: Tensor, labels: Tensor) -> None:
    alone, watched = make(), make()
    in_window(alone, images, labels, [])
    in_window(watched, images, labels, list(observed(watched)))
    for name, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name


def test_a_model_without_attention_has_no_heads_to_couple(images: Tensor, labels: Tensor) -> None:
    model = quantize_model(small_cnn("mobilenetv2"), QuantConfig(weight="lsq", input_bits=32))
    calibrate(model, [images])
    recorder = OscillationRecorder(model)
    coupling = CouplingObserver(model, recorder)
    in_window(model, images, labels, [recorder, coupling])
    coupling.finish()
    assert coupling.coupling() == [] and lift([], "same") is None and coupling.codes == "own"
    again = CouplingObserver(model, recorder)
    again.load_state_dict(coupling.state_dict())
    assert again.coupling() == []
