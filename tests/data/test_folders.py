"""Images from folders: every kind that people have is read by rule, left out by rule, or named in one line."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.numpy import load_file
from scipy.io import savemat
from timm.data.transforms_factory import transforms_imagenet_eval

from ofq.config.settings import Data
from ofq.data import batches, folders, listing
from ofq.data.manifest import read_manifest
from ofq.data.pictures import decoded, middle, pixels
from ofq.data.prepare import prepare
from ofq.data.readers import imagefolder
from ofq.data.sources import check_sources, is_streamed
from ofq.data.verify import findings
from ofq.errors import UserError
from tests.data.photos import ODD, cut, encoded, odd_folders, photo, plain_folders, study, write

ROOT = Path("photos")


def refusal(data: Data) -> str:
    """The one line that refuses to prepare."""
    with pytest.raises(UserError) as error:
        prepare("own", data)
    assert "\n" not in str(error.value) and not Path("results/own/data/manifest.json").exists()
    return str(error.value)


def names(split: str, name: str = "own") -> list[str]:
    """Names of the files of a split, in order."""
    arrays = load_file(Path(f"results/{name}/data/{split}.safetensors"))
    files = listing.Listing(*(arrays[each] for each in ("names", "ends", "sizes", "sha256")))
    return [os.fsdecode(files.name(index)) for index in range(len(files))]


def test_every_odd_kind_is_read_and_what_is_no_image_is_left_out(here: Path) -> None:
    odd_folders(ROOT)
    prepare("own", study(ROOT))
    manifest = read_manifest("own")
    assert manifest.folders is not None and manifest.folders.class_names == ["a class", "b", "ç"]
    assert manifest.files.train.images_by_class == [len(ODD), 9, 9] and manifest.files.eval.images_by_class == [3, 2, 2]
    of_class = [name for name in names("train") if name.startswith("train/a class/")]
    assert sorted(of_class) == sorted(f"train/a class/{os.fsdecode(name)}" for name in ODD)
    assert (manifest.image_size, manifest.channels, manifest.streamed) == ((32, 32), 3, False)


def test_kinds_become_red_green_and_blue_of_eight_bits() -> None:
    def made(name: str) -> np.ndarray:
        return np.asarray(decoded(ODD[name]()))

    grey = made("grey.jpg")
    assert (grey == grey[:, :, :1]).all()
    upper = np.asarray(photo(3).convert("L"))
    assert np.array_equal(made("sixteen.png"), np.stack([upper] * 3, axis=2))
    assert np.array_equal(made("a png.JPEG"), np.asarray(photo(7)))
    assert np.array_equal(made("alpha.png"), np.asarray(photo(5)))
    assert np.array_equal(made("palette.png"), np.asarray(photo(4).convert("P").convert("RGB")))
    assert np.abs(made("cmyk.jpeg").astype(int) - np.asarray(photo(2))).mean() < 8
    assert made("turned.jpg").shape == (40, 50, 3), "what EXIF says of the camera is not applied"
    assert np.array_equal(made("broken exif.jpg"), np.asarray(Image.open(io.BytesIO(encoded(photo(8))))))


@pytest.mark.parametrize("size", [(50, 40), (40, 51), (32, 32), (7, 100), (333, 500), (35, 35)])
@pytest.mark.parametrize("crop", [0.9, 1.0])
def test_an_image_in_full_is_what_timm_evaluates(size: tuple[int, int], crop: float) -> None:
    image = photo(1, *size)
    timm = transforms_imagenet_eval(32, crop_pct=crop, interpolation="bicubic", use_prefetcher=True)
    assert np.array_equal(pixels(middle(image, 32, crop)), timm(image).numpy())


def test_images_of_the_size_that_is_asked_for_stay_as_they_are(here: Path) -> None:
    """A folder of CIFAR's images gives what its archive gives."""
    rng = np.random.default_rng(0)
    shown = {split: rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8) for split in ("train", "test")}
    for split, images in shown.items():
        for i, image in enumerate(images):
            write(ROOT / f"{split}/{i % 2}/{i}.png", encoded(Image.fromarray(image), "PNG"))
    prepare("own", study(ROOT))
    data = batches.load("own")
    assert isinstance(data, batches.InMemory)
    by_class = np.concatenate([shown["train"][0::2], shown["train"][1::2]]).transpose(0, 3, 1, 2)
    assert np.array_equal(data.train_images.numpy(), by_class)
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1] and len(data.eval_labels) == 6


def no_images(root: Path) -> None:
    for path in (root / "train/b").iterdir():
        path.unlink()


def four_broken(root: Path) -> None:
    for i in range(4):
        path = root / f"train/b/{i}.jpg"
        path.write_bytes([cut(path.read_bytes()), b"", b"<html>not found</html>", path.read_bytes()[:-400]][i])


def remove_class(root: Path) -> None:
    for path in (root / "val/c").iterdir():
        path.unlink()
    (root / "val/c").rmdir()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: root.rename("elsewhere"), "photos not found; docs/add-a-data-set.md says what belongs there"),
        (lambda root: (root / "train").rename(root / "training"), "photos/train not found"),
        (lambda root: (root / "val").rename(root / "evaluation"), "photos/val not found"),
        (remove_class, "photos: classes with a folder in one split only, 1 in all: c in train; add it"),
        (no_images, "photos/train: folders of classes without images, 1 in all: b; add images, or remove the class"),
        (four_broken, "4 of the 24 images of train cannot be used: train/b/0.jpg cannot be read ("),
        (four_broken, "train/b/1.jpg is no image, train/b/2.jpg is no image and 1 more; mend or remove them"),
        (lambda root: (root / "val/a/more.jpg").symlink_to("nowhere"), "val/a/more.jpg cannot be read (No such file"),
        (lambda root: (root / "val/a/more.jpg").symlink_to("."), "val/a/more.jpg is no file"),
        (lambda root: os.mkfifo(root / "val/a/more.jpg"), "val/a/more.jpg is no file"),
        (
            lambda root: write(root / "val/a/f.tif", encoded(Image.new("F", (9, 9)), "TIFF")),
            "val/a/f.tif has pixels of 32 bits",
        ),
        (
            lambda root: write(root / "val/a/\x1b.png", encoded(photo(1), "PNG")[:-60]),
            "val/a/\\x1b.png cannot be read (",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_folders_is_one_line(
    here: Path, change: Callable[[Path], Any], message: str, stream: bool
) -> None:
    plain_folders(ROOT)
    change(ROOT)
    assert message in refusal(study(ROOT, stream=stream))


def test_files_beside_the_folders_of_classes_are_no_class(here: Path) -> None:
    plain_folders(ROOT)
    write(ROOT / "train/notes.txt", b"")
    write(ROOT / "train/.cache/a.jpg", b"")
    prepare("own", study(ROOT))
    assert read_manifest("own").classes == 3


@pytest.mark.parametrize("evaluated", ["validation", "test"])
def test_the_folder_of_evaluation_images_has_one_of_three_names(here: Path, evaluated: str) -> None:
    plain_folders(ROOT, evaluated=evaluated)
    prepare("own", study(ROOT))
    assert {name.split("/")[0] for name in names("eval")} == {evaluated}
    plain_folders(ROOT)
    prepare("own", study(ROOT))
    assert {name.split("/")[0] for name in names("eval")} == {"val"}, "the first that is there"


@pytest.mark.parametrize("stream", [True, False])
def test_validation_images_are_files_of_training(here: Path, stream: bool) -> None:
    plain_folders(ROOT)
    prepare("own", study(ROOT, stream=stream, evaluate="validation"))
    train, held = names("train"), names("eval")
    assert len(train) == 20 and len(held) == 4 and not {*train} & {*held}
    assert sorted([*train, *held]) == sorted(f"train/{c}/{i}.jpg" for c in "abc" for i in range(8))
    data = batches.load("own", workers=0)
    (batch,) = data.evaluation()
    assert [name.split("/")[1] for name in held] == ["abc"[label] for label in batch.labels.tolist()]


@pytest.mark.parametrize("stream", [True, False])
def test_a_part_of_the_images_is_spread_over_all_classes(here: Path, stream: bool) -> None:
    plain_folders(ROOT)
    prepare("own", study(ROOT, stream=stream))
    train, evaluated = names("train"), names("eval")
    prepare("own", study(ROOT, stream=stream, train_images=6, evaluation_images=len(evaluated)))
    assert names("train") == train[::4] and names("eval") == evaluated
    assert [name.split("/")[1] for name in names("train")] == list("aabbcc")
    data = batches.load("own", workers=0)
    assert data.count == 6
    with pytest.raises(UserError, match=r"data\.train_images 25 is more than the 24 images that there are; lower it"):
        prepare("own", study(ROOT, stream=stream, train_images=25))
    assert names("train") == train[::4], "nothing was written"


def test_variables_and_homes_in_the_root_are_replaced(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_folders(here / "scratch/photos")
    monkeypatch.setenv("HOME", str(here / "scratch"))
    monkeypatch.setenv("SCRATCH", str(here / "scratch"))
    for root in ("~/photos", "$SCRATCH/photos", "${SCRATCH}/photos"):
        data = Data(name="imagefolder", root=root, image_size=32, stream=True)
        check_sources("own", data)
        prepare("own", data)
        assert batches.load("own", workers=0).train(0, 0, 4).images.shape == (4, 3, 32, 32)
    monkeypatch.delenv("SCRATCH")
    for step in (lambda: batches.load("own"), lambda: check_sources("own", data)):
        with pytest.raises(UserError, match="no environment variable SCRATCH; set it, or write the path"):
            step()


def devkit(root: Path, wnids: list[str], numbers: list[int]) -> None:
    """The devkit's two files: numbers of classes that are not in the order of their names, and one of a higher class."""
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(i + 1, wnid, "words", "gloss", 0) for i, wnid in enumerate(wnids)] + [(9, "n00", "animal", "", 3)]
    write(root / "ILSVRC2012_validation_ground_truth.txt", "".join(f"{number}\n" for number in numbers).encode())
    savemat(root / "meta.mat", {"synsets": np.array(rows, dtype=kinds)})


@pytest.mark.parametrize("place", ["", "ILSVRC2012_devkit_t12/data"])
def test_a_flat_folder_has_the_classes_of_the_list_of_imagenet(here: Path, place: str) -> None:
    plain_folders(ROOT, classes=("n01", "n02", "n03"))
    remove = sorted((ROOT / "val").rglob("*.png"))
    for path in remove:
        path.unlink()
    for path in (ROOT / "val").iterdir():
        path.rmdir()
    for i in range(4):
        write(ROOT / f"val/ILSVRC2012_val_{i + 1:08d}.JPEG", encoded(photo(i)))
    data = Data(name="imagenet", root=str(ROOT), image_size=32)
    assert "the devkit are neither in photos nor in photos/ILSVRC2012_devkit_t12/data; put them there" in refusal(data)
    assert "photos/val has no folders of classes" in refusal(study(ROOT))
    devkit(ROOT / place, ["n03", "n01", "n02"], [1, 1, 2, 3])
    prepare("own", data)
    loaded = batches.load("own", workers=0)
    (batch,) = loaded.evaluation()
    assert batch.labels.tolist() == [2, 2, 0, 1]
    manifest = read_manifest("own")
    assert manifest.mean == [0.485, 0.456, 0.406] and manifest.streamed and manifest.folders.crop == 0.9  # type: ignore[union-attr]
    Path("results/own/data/manifest.json").unlink()
    devkit(ROOT / place, ["n03", "n01", "n02"], [1, 1, 2])
    assert "has 3 lines for the 4 images of val" in refusal(data)
    devkit(ROOT / place, ["n03", "n01", "n04"], [1, 1, 2, 3])
    assert "classes in train or in the devkit's list only, 2 in all: n02, n04; add" in refusal(data)
    devkit(ROOT / place, ["n03", "n01"], [1, 1, 2, 3])
    assert "the devkit cannot be read" in refusal(data)


def test_what_was_read_is_not_read_again_after_it_was_broken_off(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_folders(ROOT)
    monkeypatch.setattr(listing, "_AT_ONCE", 4)
    whole, seen = imagefolder.check_whole, list[int]()

    def counted(content: bytes) -> None:
        seen.append(len(content))
        if len(seen) == most:
            raise KeyboardInterrupt
        whole(content)

    monkeypatch.setattr(imagefolder, "check_whole", counted)
    most = 22
    with pytest.raises(KeyboardInterrupt):
        prepare("own", study(ROOT, stream=True))
    assert not Path("results").exists()
    most, before = 10**9, len(seen)
    prepare("own", study(ROOT, stream=True))
    assert len(seen) - before == 24 + 6 - 20, "five times four files were noted"
    first = read_manifest("own")
    path = ROOT / "train/a/0.jpg"
    os.utime(path, (1, 1))
    prepare("own", study(ROOT, stream=True))
    assert len(seen) - before == 10 + 4 and read_manifest("own") == first
    four_broken(ROOT)
    assert "4 of the 24" in refusal_again(study(ROOT, stream=True))


def refusal_again(data: Data) -> str:
    Path("results/own/data/manifest.json").unlink()
    return refusal(data)


def test_it_is_told_how_far_a_long_reading_is(
    here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain_folders(ROOT)
    monkeypatch.setattr(listing, "_AT_ONCE", 10)
    monkeypatch.setattr(listing, "_SILENCE", -1.0)
    caplog.set_level("INFO", "ofq")
    prepare("own", study(ROOT))
    said = [record.getMessage().split(" files, ")[0] for record in caplog.records]
    assert said == ["photos: 10 of 24", "photos: 20 of 24", "photos: 24 of 24", "photos: 6 of 6"]


def test_large_sets_are_streamed_unless_settings_say_otherwise(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_folders(ROOT)
    data = study(ROOT)
    for most, streamed in ((30, False), (29, True)):
        monkeypatch.setattr(folders, "IN_MEMORY", most * 3 * 32 * 32)
        assert is_streamed("own", data) is streamed
        prepare("own", data)
        assert read_manifest("own").streamed is streamed
        assert is_streamed("own", data) is streamed, "as it was prepared"
        Path("results/own/data/manifest.json").unlink()
    assert is_streamed("own", study(ROOT, stream=True)) and not is_streamed("own", study(ROOT, stream=False))
    assert is_streamed("own", Data(name="imagenet")) and not is_streamed("own", Data(name="digits"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "imagefolder"}, "image_size is missing"),
        ({"name": "imagefolder", "image_size": 0}, "greater than 0"),
        ({"name": "digits", "image_size": 8}, "image_size is for data sets of folders, imagefolder and imagenet"),
        ({"name": "digits", "stream": True}, "stream is for data sets of folders"),
        ({"name": "own:Shapes", "workers": 2}, "workers is for data sets of folders"),
        ({"name": "imagenet", "stream": False}, "imagenet is always streamed"),
    ],
)
def test_settings_that_do_not_fit_the_data_set_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Data.model_validate(settings)


@pytest.mark.parametrize("stream", [True, False])
def test_verify_reads_every_file_again_and_names_what_differs(here: Path, stream: bool) -> None:
    odd_folders(ROOT)
    data = study(ROOT, stream=stream)
    prepare("own", data)
    assert [finding.kind for finding in findings("own", data)] == ["ok"] * 5
    other = study(ROOT, stream=not stream, image_size=16)
    assert sum("params.yaml says" in each.text for each in findings("own", other) if each.kind == "bad") == 2
    for name in ("a class/line\nbreak.jpg", "b/1.jpg", "b/2.jpg"):
        content = bytearray((ROOT / "train" / name).read_bytes())
        content[-3] ^= 1
        (ROOT / "train" / name).write_bytes(content)
    (ROOT / "train/b/3.jpg").unlink()
    (bad,) = (finding.text for finding in findings("own", data) if finding.kind == "bad")
    assert "photos: 4 of the 36 image files of train are not those that were prepared: train/a class/line" in bad
    assert bad.count("is another file than was prepared") == 3 and "and 1 more; prepare the study again" in bad
    ROOT.rename("elsewhere")
    assert [finding.kind for finding in findings("own", data)] == ["ok"] * 3 + ["absent"] * 2


def test_the_numbers_of_streamed_images_come_from_training_images(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_folders(ROOT)
    prepare("held", study(ROOT))
    prepare("own", study(ROOT, stream=True))
    held, own = read_manifest("held"), read_manifest("own")
    assert (own.mean, own.std) == (held.mean, held.std), "all of them, where they are few"
    monkeypatch.setattr(imagefolder, "SAMPLE", 3)
    prepare("own", study(ROOT, stream=True))
    images = batches.load("held").train_images[[0, 8, 16]].double() / 255  # type: ignore[attr-defined]
    assert read_manifest("own").mean == pytest.approx(images.mean(dim=(0, 2, 3)).tolist())
    assert torch.tensor(read_manifest("own").std).gt(0).all()
