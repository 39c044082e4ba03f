"""Data: verified, split without overlap, served as a function of (seed, epoch, index)."""

import json
from pathlib import Path

import pytest
import torch

from ofq.config.settings import Data
from ofq.data import batches
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
    std, mean = (json.loads(Path("results/tune/data/manifest.json").read_text())[key][0] for key in ("std", "mean"))
    pixels = ((data.eval_images * std + mean) * 255).round().to(torch.uint8).numpy()
    assert not any(image.tobytes() in test for image in pixels[:, 0])
    kept = ((data.train_images[:1000] * std + mean) * 255).round().to(torch.uint8).numpy()
    assert not {image.tobytes() for image in kept[:, 0]} & {image.tobytes() for image in pixels[:, 0]}


def test_a_batch_is_a_function_of_seed_and_step(here: Path) -> None:
    prepare("digits", Data(name="digits"))
    data, again = batches.load("digits"), batches.load("digits")
    expected = [data.train_batch(0, step, 64) for step in range(210)]
    for step in (209, 3, 206, 0):  # any order, over the border of an epoch (206 batches)
        images, labels, _ = again.train_batch(0, step, 64)
        assert torch.equal(images, expected[step].images) and torch.equal(labels, expected[step].labels)
    assert not torch.equal(data.train_batch(1, 0, 64)[0], expected[0][0])
    assert not torch.equal(expected[206][0], expected[0][0]), "each epoch has its own order"


def test_an_epoch_meets_no_image_twice(here: Path) -> None:
    prepare("digits", Data(name="digits"))
    data = batches.load("digits")
    marked = batches.StudyData(
        torch.arange(13200.0).view(-1, 1, 1, 1), data.train_labels, *([data.eval_labels] * 2), 10
    )
    met = torch.cat([marked.train_batch(0, step, 64)[0].flatten() for step in range(206)])
    assert len(met.unique()) == 206 * 64


def test_a_batch_larger_than_the_data_is_refused(here: Path) -> None:
    prepare("digits", Data(name="digits"))
    with pytest.raises(UserError, match="batch_size 20000 is larger than the 13200 training images"):
        batches.load("digits").train_batch(0, 0, 20_000)


def test_a_flipped_byte_is_noticed(here: Path) -> None:
    prepare("digits", Data(name="digits"))
    path = Path("results/digits/data/eval.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"eval\.safetensors differs from its manifest"):
        batches.load("digits")
