"""Augmentation: a function of (seed, epoch, index), exact on any device, of training images alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from ofq.config.recipes import Augmentation
from ofq.config.settings import Data
from ofq.data import batches
from ofq.data.augment import blanked, drawn, moved
from ofq.data.prepare import prepare
from ofq.errors import UserError

ALL = Augmentation(crop=2, flip=True, cutout=3)
CPU = torch.device("cpu")
SIZE = (6, 8)


def some(augment: Augmentation = ALL, count: int = 40) -> batches.InMemory:
    """Images of random pixels without black, so that the frame can be told from them."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(1, 256, (count, 3, *SIZE), generator=generator, dtype=torch.uint8)
    mean, std = (torch.full((1, 3, 1, 1), value) for value in (0.5, 0.25))
    return batches.InMemory(pixels, torch.arange(count), pixels[:5], torch.arange(5), count, mean, std, augment)


def placed(data: batches.InMemory, where: str) -> batches.InMemory:
    """The same images on another device."""
    tensors = ("train_images", "train_labels", "eval_images", "eval_labels", "mean", "std")
    return replace(data, **{name: getattr(data, name).to(where) for name in tensors})


def draws_of(augment: Augmentation, count: int = 40, epoch: int = 0) -> torch.Tensor:
    return drawn(augment, count, SIZE, 0, epoch, CPU)


def test_crop_and_flip_are_torchvisions() -> None:
    images, draws = some().train_images, draws_of(ALL)
    for image, result, draw in zip(images, moved(images, draws, 2), draws.tolist(), strict=True):
        expected = tv.crop(tv.pad(image, [2]), draw[0], draw[1], *SIZE)
        assert torch.equal(result, tv.horizontal_flip(expected) if draw[2] else expected)


def test_a_square_of_the_mean_colour_is_cut_out_around_its_middle() -> None:
    draws = draws_of(ALL)
    result = blanked(torch.ones(40, 3, *SIZE), draws, 3)
    for image, (*_, row, column) in zip(result, draws.tolist(), strict=True):
        expected = torch.ones(3, *SIZE)
        expected[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0
        assert torch.equal(image, expected)


def test_all_shifts_flips_and_middles_are_drawn_and_none_beyond() -> None:
    draws = draws_of(ALL, count=2000)
    assert [sorted(set(column.tolist())) for column in draws.unbind(1)] == [
        list(range(count)) for count in (5, 5, 2, *SIZE)
    ]


def test_what_one_setting_draws_does_not_depend_on_the_others() -> None:
    every = draws_of(ALL)
    assert torch.equal(draws_of(Augmentation(crop=2))[:, :2], every[:, :2])
    assert torch.equal(draws_of(Augmentation(flip=True))[:, 2], every[:, 2])
    assert torch.equal(draws_of(Augmentation(cutout=5))[:, 3:], every[:, 3:])


def test_an_augmentation_that_does_nothing_changes_nothing() -> None:
    images = some().train_images
    draws = draws_of(Augmentation())
    assert torch.equal(moved(images, draws, 0), images) and torch.equal(blanked(images, draws, 0), images)


def images_of(data: batches.InMemory, steps: range, batch_size: int, seed: int = 0) -> dict[int, torch.Tensor]:
    """Images of some steps by their positions."""
    found = [data.train(seed, step, batch_size) for step in steps]
    return {int(index): image for batch in found for index, image in zip(batch.indices, batch.images, strict=True)}


def test_an_image_of_an_epoch_does_not_depend_on_batch_size_order_or_processes() -> None:
    data = some()
    expected = images_of(data, range(5), 8)
    assert len(expected) == 40
    for other in (images_of(data, range(10), 4), images_of(data, range(4, -1, -1), 8), images_of(some(), range(5), 8)):
        assert other.keys() == expected.keys() and all(torch.equal(other[i], expected[i]) for i in expected)
    parts = [data.train(0, 3, 8, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat([part.images for part in parts]), data.train(0, 3, 8).images)


@pytest.mark.parametrize(("steps", "seed"), [(range(5, 10), 0), (range(5), 1)], ids=["epoch", "seed"])
def test_another_epoch_and_another_seed_change_images_in_another_way(steps: range, seed: int) -> None:
    first, other = images_of(some(), range(5), 8), images_of(some(), steps, 8, seed)
    assert sum(torch.equal(first[i], other[i]) for i in first) < 4


def test_images_that_are_evaluated_are_not_changed() -> None:
    plain, changed = some(Augmentation()), some()
    for one, other in ((plain, changed), (plain.of_training(slice(None)), changed.of_training(slice(None)))):
        for before, after in zip(one.evaluation(), other.evaluation(), strict=True):
            assert torch.equal(before.images, after.images)


@pytest.mark.parametrize("augment", [Augmentation(), ALL], ids=["plain", "augmented"])
def test_batches_are_made_where_the_images_are(augment: Augmentation) -> None:
    there = placed(some(augment), "meta")
    for batch in (there.train(0, 0, 8), *there.evaluation(), *there.of_training(slice(None)).evaluation()):
        assert {each.device.type for each in batch} == {"meta"}
    batch = there.train(0, 0, 8)
    assert batch.images.shape == (8, 3, *SIZE) and batch.images.dtype == torch.float32


@pytest.mark.parametrize(("name", "pixels"), [("crop", 8), ("cutout", 9)])
def test_an_augmentation_that_can_leave_nothing_is_one_line(here: Path, name: str, pixels: int) -> None:
    prepare("digits", Data(name="digits"))
    message = f"augment.{name} {pixels} can leave nothing of images of 8x8 pixels; lower it in params.yaml"
    with pytest.raises(UserError, match=message):
        batches.load("digits", Augmentation(**{name: pixels}))
    assert batches.load("digits", Augmentation(**{name: 7})).augment == Augmentation(**{name: 7})
