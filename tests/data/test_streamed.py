"""Streamed images: an example is a function of (seed, epoch, index, repeat), whoever reads it and when."""

import multiprocessing
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ofq.config.recipes import Augmentation
from ofq.data import batches, listing
from ofq.data.batch import Batch, Order
from ofq.data.manifest import FromFolders, SourceFile
from ofq.data.prepare import prepare
from ofq.data.reader import Source
from ofq.data.readers.imagefolder import ImageFolder
from ofq.data.streamed import Streamed
from ofq.errors import UserError
from tests.data.photos import encoded, photo, plain_folders, study, write

ROOT = Path("photos")
CHANGES = Augmentation(scale=(0.08, 1.0), flip=True, policy="rand-m9-mstd0.5-inc1", erasing=0.5)
ORDER = (0, 1, 4, 2)  # two batches of 12 make an epoch


@pytest.fixture
def photos(here: Path) -> Path:
    """A prepared study of 24 training images."""
    plain_folders(ROOT)
    prepare("own", study(ROOT, stream=True))
    return ROOT


def load(augment: Augmentation = CHANGES, **more: Any) -> Streamed:
    data = batches.load("own", augment, **{"workers": 0, **more})
    assert isinstance(data, Streamed)
    return data


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def expected(photos: Path) -> dict[int, Batch]:
    return {step: load().train(3, step, 12) for step in ORDER}


def test_batches_differ_by_epoch_seed_and_change(expected: dict[int, Batch]) -> None:
    met = torch.cat([expected[step].indices for step in (0, 1)])
    assert met.unique().numel() == 24
    again = {int(i): image for i, image in zip(expected[4].indices, expected[4].images, strict=True)}
    first = {int(i): image for step in (0, 1) for i, image in zip(expected[step].indices, expected[step].images, strict=True)}  # fmt: skip
    assert not any(torch.equal(image, first[index]) for index, image in again.items())
    assert not torch.equal(load().train(4, 0, 12).images, expected[0].images)
    for less in ({"scale": None}, {"flip": False}, {"policy": None}, {"erasing": 0.0}):
        other = load(CHANGES.model_copy(update=less)).train(3, 0, 12)
        assert torch.equal(other.indices, expected[0].indices) and not torch.equal(other.images, expected[0].images)
    jitter = load(Augmentation(jitter=0.4)).train(3, 0, 12)
    assert not torch.equal(jitter.images, load(Augmentation()).train(3, 0, 12).images)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_they_are_the_same_with_any_number_of_workers_and_of_processes(
    expected: dict[int, Batch], workers: int, world: int
) -> None:
    ranks = [load(workers=workers) for _ in range(world)]
    for step in ORDER:
        parts = [data.train(3, step, 12, rank, world) for rank, data in enumerate(ranks)]
        assert same(Batch(*map(torch.cat, zip(*parts, strict=True))), expected[step])


def test_evaluation_images_are_shared_and_each_is_seen_once(photos: Path) -> None:
    (whole,) = load().evaluation()
    assert whole.indices.tolist() == list(range(6)) and whole.labels.tolist() == [0, 0, 1, 1, 2, 2]
    parts = [batch for rank in range(2) for batch in load(workers=rank).evaluation(rank, 2)]
    joined = Batch(*map(torch.cat, zip(*parts, strict=True)))
    assert torch.equal(joined.images[joined.indices.argsort()], whole.images)


def test_what_is_not_changed_is_what_images_in_memory_are_to_the_bit(photos: Path) -> None:
    prepare("held", study(ROOT))
    held, streamed = batches.load("held"), load(Augmentation())
    assert same(held.train(3, 5, 12), streamed.train(3, 5, 12))
    assert same(next(held.evaluation()), next(streamed.evaluation()))
    chosen = torch.tensor([7, 3])
    assert same(next(held.of_training(chosen).evaluation()), next(load().of_training(chosen).evaluation()))
    assert next(load().of_training(slice(None)).evaluation()).labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8


@pytest.mark.parametrize("workers", [0, 1])
def test_no_random_number_of_the_training_is_drawn(photos: Path, workers: int) -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    data = load(workers=workers)
    data.train(0, 0, 4)
    list(data.evaluation())
    assert (random.random(), np.random.rand(), torch.rand(())) == expected


def test_an_image_comes_so_often_as_repeats_say_each_time_changed_anew(photos: Path) -> None:
    data = load(repeats=3)
    chosen = torch.cat([data.train(0, step, 12).indices for step in (0, 1)])
    assert chosen.unique(return_counts=True)[1].tolist() == [3] * 8
    batch = data.train(0, 0, 12)
    a, b = batch.indices[:2].tolist()
    assert batch.indices[:6].tolist() == [a, b] * 3 and a != b
    assert len({image.numpy().tobytes() for image in batch.images}) == 12
    plain = Order(24).part(0, 0, 12)
    assert plain.chosen[:2].tolist() == [a, b] and plain.repeats.tolist() == [0] * 12
    held = study(ROOT)
    prepare("held", held)
    moved = batches.load("held", Augmentation(crop=4), repeats=3).train(0, 0, 12)
    assert torch.equal(moved.indices, batch.indices)
    assert len({image.numpy().tobytes() for image in moved.images}) > 8


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_changed_or_went_away_is_one_line(photos: Path, workers: int) -> None:
    path = ROOT / "train/b/1.jpg"
    content = path.read_bytes()
    for change, message in (
        (
            lambda: path.write_bytes(content[:-1]),
            r"photos/train/b/1\.jpg has \d+ bytes, and had \d+ when the study was",
        ),
        (lambda: path.write_bytes(bytes(len(content))), r"photos/train/b/1\.jpg is no image"),
        (path.unlink, r"photos/train/b/1\.jpg cannot be read \(No such file"),
    ):
        change()
        data = load(workers=workers)
        with pytest.raises(UserError, match=message) as error:
            [data.train(0, step, 12) for step in (0, 1)]
        assert len(str(error.value)) < 200
    write(path, content)
    assert len(load(workers=workers).train(0, 0, 24).labels) == 24


def test_the_workers_of_a_job_end_with_it_and_a_later_batch_is_the_same(photos: Path) -> None:
    before = {process.pid for process in multiprocessing.active_children()}
    data = load(workers=2)
    first = data.train(3, 0, 12)
    assert {process.pid for process in multiprocessing.active_children()} - before
    data.close()
    assert {process.pid for process in multiprocessing.active_children()} <= before
    assert same(data.train(3, 0, 12), first)
    data.close()


def test_a_fault_of_ours_in_a_worker_is_not_taken_for_a_lack_of_memory(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(content: bytes) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("ofq.data.streamed.decoded", fail)
    data = load(workers=1)
    with pytest.raises(RuntimeError, match="a defect"):
        data.train(3, 0, 12)


def test_the_wrong_kind_of_change_is_refused(photos: Path) -> None:
    with pytest.raises(
        UserError, match=r"augment\.crop is for images that are held in memory, and those of this study"
    ):
        load(Augmentation(crop=2))
    prepare("held", study(ROOT))
    with pytest.raises(UserError, match=r"augment\.policy is for images that are streamed.*data\.stream: true"):
        batches.load("held", Augmentation(policy="rand-m9"))


def test_a_million_images_take_little_memory(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is there once, and its name stands in the list as often as ImageNet has images."""
    content, many = encoded(photo(1)), 1_300_000
    name = b"train/n01440764/n01440764_10026.JPEG"
    write(ROOT / name.decode(), content)

    def source(count: int) -> Source:
        files = listing.Listing.of([name] * count, np.full(count, len(content)), np.zeros((count, 32), np.uint8))
        pair = np.zeros((count, 0, 32, 32), np.uint8), np.arange(count) % 1000
        one = files.taken(np.arange(1000)), (pair[0][:1000], pair[1][:1000])
        said = FromFolders(class_names=[str(i) for i in range(1000)], crop=1.0, streamed=True)
        origin = {"train": SourceFile(sha256="0" * 64, bytes=1)}
        return Source(pair, one[1], 1000, "", origin, said, (files, one[0]), ([0.5] * 3, [0.2] * 3))

    for study_name, count in (("few", 1000), ("own", many)):
        monkeypatch.setattr(ImageFolder, "read", lambda self, count=count: source(count))
        prepare(study_name, study(ROOT))
    script = (
        "import re\nfrom pathlib import Path\nfrom ofq.data import batches\n"
        "for name in ('few', 'own'):\n"
        "    data = batches.load(name, workers=0)\n"
        "    data.train(0, 7, 64), next(data.evaluation())\n"
        "    print(data.count, re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (few, before), (count, after) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (few, count) == (1000, many)
    assert 50 < (after - before) / 1024 < 500, "MiB at their peak"
