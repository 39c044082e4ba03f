"""Noise on codes: what it may change, by how much, and that it comes from its seed alone."""

from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from ofq.data.batches import InMemory
from ofq.measure.extent import PLACES, RANGES
from ofq.measure.noise import Noise, fixed, inject, measure
from ofq.oscillation.thresholds import threshold_distance
from ofq.quant import block_weights
from ofq.quant.weights import BlockWeight
from ofq.training.device import Device
from ofq.training.loop import evaluate

WIDE = 0.2  # code steps: a band that holds many weights of a small model


def by_weight(model: nn.Module, noise: Noise) -> tuple[list[tuple[BlockWeight, Tensor]], int]:
    """The drawn codes of each matrix, thirds of a joint one apart."""
    weights = block_weights(model)
    codes, injected = inject(weights, noise)
    return [(weight, codes[weight.layer][weight.rows]) for weight in weights], injected


@pytest.mark.parametrize("where", PLACES)
def test_a_range_of_zero_changes_nothing(make: Callable[[], nn.Module], images: Tensor, where: str) -> None:
    model = make().eval()
    codes, injected = inject(block_weights(model), Noise(0, 0, where, 0.0))
    assert injected == 0
    with torch.no_grad():
        before = model(images)
        with fixed(codes):
            during = model(images)
    assert torch.equal(before, during)


def test_near_thresholds_each_weight_gets_one_of_the_two_codes_next_to_it(make: Callable[[], nn.Module]) -> None:
    drawn, injected = by_weight(make(), Noise(0, 0, "boundary", WIDE))
    upper = changed = count = 0
    for weight, codes in drawn:
        position = weight.position()
        near = threshold_distance(position) <= WIDE
        assert torch.equal(codes[~near], weight.codes()[~near].to(codes))
        above = codes[near] - position[near].floor()
        assert set(above.tolist()) <= {0.0, 1.0}
        upper += int(above.sum())
        changed += int((codes != weight.codes()).sum())
        count += int(near.sum())
    assert injected == count > 300
    chance = pytest.approx(0.5, abs=1.7 / count**0.5)
    assert upper / count == chance and changed / count == chance


def test_anywhere_as_many_weights_of_each_matrix_move_by_one_code_and_stay_on_the_grid(
    make: Callable[[], nn.Module],
) -> None:
    model = make()
    drawn, injected = by_weight(model, Noise(0, 0, "random", WIDE))
    changed = far = 0
    for weight, codes in drawn:
        near = threshold_distance(weight.position()) <= WIDE
        difference = codes - weight.codes()
        assert set(difference.unique().tolist()) <= {-1.0, 0.0, 1.0}
        assert codes.min() >= -2 and codes.max() <= 1
        moved = int((difference != 0).sum())
        assert moved <= int(near.sum())
        changed += moved
        far += int(((difference != 0) & ~near).sum())
    assert injected == by_weight(model, Noise(0, 0, "boundary", WIDE))[1]
    assert changed / injected == pytest.approx(0.5, abs=1.7 / injected**0.5)
    assert far > changed / 4, "it does not regard where a weight lies"


@pytest.mark.parametrize("where", PLACES)
def test_noise_comes_from_its_seed_trial_place_and_range_alone(make: Callable[[], nn.Module], where: str) -> None:
    weights = block_weights(make())

    def drawn(noise: Noise) -> Tensor:
        torch.rand(1)  # the common source of randomness has no part in it
        return torch.cat([codes.flatten() for codes in inject(weights, noise)[0].values()])

    first = drawn(Noise(0, 0, where, WIDE))
    assert torch.equal(drawn(Noise(0, 0, where, WIDE)), first)
    for other in (Noise(1, 0, where, WIDE), Noise(0, 1, where, WIDE), Noise(0, 0, where, WIDE / 2)):
        assert not torch.equal(drawn(other), first)


def test_codes_are_put_in_place_with_the_steps_of_the_model_and_taken_away_again(
    make: Callable[[], nn.Module], images: Tensor
) -> None:
    model = make().eval()
    weights = block_weights(model)
    before = {weight.layer: weight.layer.weight_quantizer for weight in weights}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    codes, _ = inject(weights, Noise(0, 0, "random", WIDE))
    with torch.no_grad():
        logits = model(images)
        with fixed(codes):
            for weight in weights:
                layer, quantizer = weight.layer, before[weight.layer]
                whole = layer.latent_weight()
                own = quantizer.rounded(whole)
                expected = own.step * (codes[layer] + own.offset)
                torch.testing.assert_close(layer.weight_quantizer(whole), expected)
                torch.testing.assert_close(weight.codes(), codes[layer][weight.rows].to(torch.int8))
            assert not torch.equal(model(images), logits)
        assert torch.equal(model(images), logits)
        with pytest.raises(KeyError), fixed(codes):
            raise KeyError
    assert {layer: layer.weight_quantizer for layer in before} == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_another_place_is_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match="where must be one of boundary, random, not 'middle'"):
        inject(block_weights(make()), Noise(0, 0, "middle", WIDE))


def data(train: int) -> InMemory:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(256, (train + 40, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(5, (train + 40,), generator=generator)
    mean, std = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    return InMemory(images[40:], labels[40:], images[:40], labels[:40], classes=5, mean=mean, std=std)


def test_a_table_holds_every_trial_and_is_the_same_again(make: Callable[[], nn.Module]) -> None:
    model, images = make(), data(60)
    frame = measure(model, images, seed=3, trials=2)
    pd.testing.assert_frame_equal(measure(model, images, seed=3, trials=2), frame)
    assert list(frame.columns) == ["where", "range", "trial", "injected", "top1", "loss", "train_loss"]
    rows = [("none", 0.0, 0), *((where, limit, trial) for limit in RANGES for where in PLACES for trial in range(2))]
    assert list(frame[["where", "range", "trial"]].itertuples(index=False, name=None)) == rows
    assert tuple(frame[["top1", "loss"]].iloc[0]) == evaluate(model, images)
    # All training images of so small a study, in whatever order.
    everything = images.of_training(slice(None))
    assert frame["train_loss"][0] == pytest.approx(evaluate(model, everything)[1], abs=1e-5)
    position = torch.cat([weight.position().flatten() for weight in block_weights(model)])
    for limit in RANGES:
        share = 100 * (threshold_distance(position) <= limit).double().mean().item()
        assert frame[frame["range"] == limit]["injected"].tolist() == pytest.approx([share] * 4)
    assert not measure(model, images, seed=4, trials=2)["loss"][1:].equals(frame["loss"][1:])
    assert frame["loss"].nunique() > 3, "some of it is lost in the rounding of the last layer"


def test_of_many_training_images_two_thousand_are_looked_at(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def counted(model: nn.Module, images: InMemory, device: Device) -> tuple[float, float]:
        seen.append(images.eval_images)
        return 0.0, 0.0

    monkeypatch.setattr("ofq.measure.noise.evaluate", counted)
    images = data(2100)
    for seed in (0, 0, 1):
        measure(make(), images, seed=seed, trials=1)
    chosen = [x for x in seen if len(x) != len(images.eval_images)]
    assert {len(x) for x in chosen} == {600}
    assert all(torch.equal(x, chosen[0]) for x in chosen[:10]), "the same for all trials, and again for the same seed"
    assert not torch.equal(chosen[10], chosen[0])
    assert len(torch.unique(chosen[0].flatten(1), dim=0)) == 600, "each once"
