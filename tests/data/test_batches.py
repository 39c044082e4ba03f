"""Data: verified, split without overlap, served as a function of (seed, epoch, index)."""

import json
from pathlib import Path

import pytest
import torch

from ofq.config.settings import Data
from ofq.data import batches
from ofq.data.manifest import read_manifest
from ofq.data.prepare import prepare
from ofq.data.readers.digits import AFFINE_COPIES
from ofq.errors import UserError
from tests.data.small import read


def test_digits_are_split_1200_to_597_without_overlap(here: Path) -> None:
    source = read(Data(name="digits"))
    assert len(source.train[1]) == 1200 and len(source.test[1]) == 597
    # A few digits are drawn alike; no more than that may stand in both parts.
    seen = {image.tobytes() for image in source.train[0]}
    assert sum(image.tobytes() in seen for image in source.test[0]) == 0


def test_preparing_twice_gives_the_same_files(here: Path) -> None:
    prepare("digits", Data(name="digits"))
    first = json.loads(Path("results/digits/data/manifest.json").read_text())
    prepare("digits", Data(name="digits"))
    assert json.loads(Path("results/digits/data/manifest.json").read_text()) == first
    assert first["files"]["train"]["images"] == 1200 * (AFFINE_COPIES + 1)


def test_validation_images_come_from_the_training_set_and_leave_it(here: Path) -> None:
    prepare("tune", Data(name="digits", evaluate="validation"))
    data = batches.load("tune")
    assert len(data.eval_labels) == 200 and len(data.train_labels) == 1000 * (AFFINE_COPIES + 1)
    test = {image.tobytes() for image in read(Data(name="digits")).test[0]}
    assert not any(image.numpy().tobytes() in test for image in data.eval_images)
    kept = {image.numpy().tobytes() for image in data.train_images[:1000]}
    assert not kept & {image.numpy().tobytes() for image in data.eval_images}


def test_a_batch_holds_the_pixels_normalised_as_a_whole_set_would_be_to_the_bit(here: Path) -> None:
    prepare("digits", Data(name="digits"))
    data = batches.load("digits")
    manifest = read_manifest("digits")
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (manifest.mean, manifest.std))
    train, evaluation = ((pixels.float() / 255 - mean) / std for pixels in (data.train_images, data.eval_images))
    indices, images, labels = data.train(0, 5, 64)
    assert torch.equal(images, train[indices]) and torch.equal(labels, data.train_labels[indices])
    assert torch.equal(torch.cat([batch.images for batch in data.evaluation()]), evaluation)


def test_a_batch_is_a_function_of_seed_and_step(here: Path) -> None:
    prepare("digits", Data(name="digits"))
    data, again = batches.load("digits"), batches.load("digits")
    expected = [data.train(0, step, 64) for step in range(210)]
    for step in (209, 3, 206, 0):  # any order, over the border of an epoch (206 batches)
        _, images, labels = again.train(0, step, 64)
        assert torch.equal(images, expected[step].images) and torch.equal(labels, expected[step].labels)
    assert not torch.equal(data.train(1, 0, 64).images, expected[0].images)
    assert not torch.equal(expected[206].images, expected[0].images), "each epoch has its own order"


def test_an_epoch_meets_no_image_twice(here: Path) -> None:
    prepare("digits", Data(name="digits"))
    data = batches.load("digits")
    met = torch.cat([data.train(0, step, 64).indices for step in range(206)])
    assert len(met.unique()) == 206 * 64


def small(train: int = 60, evaluation: int = 600) -> batches.InMemory:
    """Images of one pixel: the last eight bits of their positions; of evaluation images the labels are negative."""
    images, others = (torch.arange(count).to(torch.uint8).view(-1, 1, 1, 1) for count in (train, evaluation))
    one = torch.ones(1, 1, 1, 1)
    return batches.InMemory(images, torch.arange(train), others, -torch.arange(evaluation), 10, 0 * one, one / 255)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_exactly_the_images_of_one_alone(world: int) -> None:
    data = small()
    for step in (0, 4, 7):
        whole = data.train(0, step, 12)
        parts = [data.train(0, step, 12, rank, world) for rank in range(world)]
        assert {len(part.labels) for part in parts} == {12 // world}
        for together, alone in zip(map(torch.cat, zip(*parts, strict=True)), whole, strict=True):
            assert torch.equal(together, alone)
        assert torch.equal(whole.indices, whole.labels)
    alone = torch.cat([batch.indices for batch in data.evaluation()])
    shared = [torch.cat([batch.indices for batch in data.evaluation(rank, world)]) for rank in range(world)]
    assert torch.equal(torch.cat(shared).sort().values, alone) and torch.equal(alone, torch.arange(600))
    for batch in data.evaluation(world - 1, world):
        assert torch.equal(-batch.indices, batch.labels)
        assert torch.equal(batch.indices % 256, batch.images.flatten().round())
        assert len(batch.labels) <= batches.EVAL_BATCH


def test_a_batch_that_cannot_be_shared_equally_is_refused() -> None:
    with pytest.raises(UserError, match="5 processes cannot share a batch_size of 12; change it"):
        small().train(0, 0, 12, 0, 5)


def test_training_images_can_take_the_place_of_the_evaluation_images() -> None:
    data = small()
    (every,) = data.of_training(slice(None)).evaluation()
    assert torch.equal(every.labels, torch.arange(60)) and torch.equal(
        every.images.flatten().round(), torch.arange(60.0)
    )
    (some,) = data.of_training(torch.tensor([7, 3])).evaluation()
    assert some.labels.tolist() == [7, 3] and data.of_training(torch.tensor([7, 3])).count == 60


def test_a_batch_larger_than_the_data_is_refused(here: Path) -> None:
    prepare("digits", Data(name="digits"))
    with pytest.raises(UserError, match="batch_size 20000 is larger than the 13200 training images"):
        batches.load("digits").train(0, 0, 20_000)


def test_a_flipped_byte_is_noticed(here: Path) -> None:
    prepare("digits", Data(name="digits"))
    path = Path("results/digits/data/eval.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"eval\.safetensors differs from its manifest"):
        batches.load("digits")
