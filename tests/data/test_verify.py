"""`python -m ofq data --verify` names everything that is not what the manifest claims, in one line each."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from ofq.cli import main as cli
from ofq.config.settings import Data
from ofq.data import batches, manifest
from ofq.data.prepare import prepare
from ofq.data.verify import findings
from ofq.errors import UserError
from ofq.runs.files import write_json
from ofq.runs.provenance import file_digest
from tests.conftest import ROOT
from tests.data.small import IDX, idx_bytes

FASHION = Data(name="fashion-mnist")
STUDY = Path("results/small/data")
MANIFEST = STUDY / "manifest.json"


@pytest.fixture
def prepared(fashion: Path) -> Path:
    """A study on a small Fashion-MNIST, prepared; the folder of its sources."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["studies"]["small"] = content["studies"]["digits"] | {"data": {"name": "fashion-mnist"}}
    Path("params.yaml").write_text(yaml.safe_dump(content))
    prepare("small", FASHION)
    return fashion


def problems(study: str = "small", data: Data = FASHION) -> list[str]:
    found = [finding.text for finding in findings(study, data) if finding.kind == "bad"]
    assert all("\n" not in text for text in found)
    return found


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def rewrite(change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what the manifest says, with a digest as if it had been written so."""
    content = json.loads(MANIFEST.read_text())
    del content["sha256"]
    change(content)
    write_json(MANIFEST, content | {"sha256": manifest._digest(content)})


def restore(split: str, **arrays: np.ndarray) -> None:
    """Write other arrays, and have the manifest vouch for the file."""
    path = STUDY / f"{split}.safetensors"
    save_file(load_file(path) | arrays, path)
    said = {"sha256": file_digest(path), "bytes": path.stat().st_size}
    rewrite(lambda content: content["files"][split].update(said))


def test_a_good_study_is_a_line_for_each_file(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "small", "--verify"]) == 0
    lines = capsys.readouterr().out.splitlines()
    sha256 = file_digest(STUDY / "train.safetensors")[:12]
    assert lines[1] == f"ok      {STUDY}/train.safetensors  30 images, sha256 {sha256}..."
    assert [line.split()[:2] for line in lines] == [
        ["ok", str(path)]
        for path in (
            MANIFEST,
            STUDY / "train.safetensors",
            STUDY / "eval.safetensors",
            *(prepared / name for name in IDX),
        )
    ]


def test_without_a_study_all_that_have_data_are_verified(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare("digits", Data(name="digits"))
    assert cli.main(["data", "--verify"]) == 0
    out = capsys.readouterr().out
    assert "results/digits/data/eval.safetensors  597 images" in out and "sklearn.datasets.load_digits  source" in out
    assert f"{STUDY}/eval.safetensors  20 images" in out and "digits-lr" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data"], "which study? name one, as in: python -m ofq data digits; or verify all with: "),
        (["data", "--verify"], "no study has prepared data here; prepare a study's with: snakemake results/"),
        (["data", "digitz", "--verify"], "unknown study 'digitz'; did you mean 'digits'?"),
    ],
)
def test_nothing_to_do_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    assert cli.main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and message in error


def test_a_study_that_was_not_prepared_is_told_how(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    assert cli.main(["data", "digits", "--verify"]) == 2
    out, _ = capsys.readouterr()
    assert "manifest.json does not exist; make it with: snakemake results/digits/data/manifest.json" in out


@pytest.mark.parametrize("name", ["train.safetensors", "eval.safetensors"])
@pytest.mark.parametrize("place", range(-400, 0, 41))
def test_a_flipped_byte_of_images_and_labels_is_noticed(prepared: Path, name: str, place: int) -> None:
    flip(STUDY / name, place)
    assert f"{STUDY}/{name} has sha256" in problems()[0]
    with pytest.raises(UserError, match=f"{name} differs from its manifest"):
        batches.load("small")


def test_a_flipped_byte_of_the_manifest_is_noticed_wherever_it_is(prepared: Path) -> None:
    whole = MANIFEST.read_bytes()
    for place in range(0, len(whole), 5):
        flip(MANIFEST, place)
        found = problems()
        assert len(found) == 1 and found[0].startswith(f"{MANIFEST} "), (place, found)
        with pytest.raises(UserError, match=r"manifest\.json (is damaged|was changed)"):
            manifest.read_manifest("small")
        MANIFEST.write_bytes(whole)
    assert problems() == []


@pytest.mark.parametrize("name", list(IDX))
def test_a_flipped_byte_of_a_source_is_noticed(prepared: Path, name: str) -> None:
    path = prepared / name
    for place in range(0, path.stat().st_size, path.stat().st_size // 12):
        flip(path, place)
        assert [text for text in problems() if text.startswith(f"{path} is not the source that was prepared")]
        flip(path, place)
    assert problems() == []


def test_every_problem_is_named_not_the_first_alone(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(STUDY / "train.safetensors", -1)
    (STUDY / "eval.safetensors").unlink()
    (prepared / "train-images-idx3-ubyte.gz").write_bytes((prepared / "train-images-idx3-ubyte.gz").read_bytes()[:-9])
    (prepared / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.zeros(19))))
    (prepared / "t10k-images-idx3-ubyte.gz").unlink()
    assert cli.main(["data", "small", "--verify"]) == 2
    out, error = capsys.readouterr()
    bad = [line.removeprefix("bad     ") for line in out.splitlines() if line.startswith("bad")]
    expected = [
        f"{STUDY}/train.safetensors has sha256 .* its content was changed",
        f"{STUDY}/train.safetensors holds .* labels|{STUDY}/train.safetensors has pixels of mean",
        f"{STUDY}/eval.safetensors does not exist",
        r".*train-images-idx3-ubyte\.gz is not the source that was prepared: .* is truncated",
        r".*t10k-images-idx3-ubyte\.gz does not exist, and its folder does",
        r".*t10k-labels-idx1-ubyte\.gz is not the source .* is not Fashion-MNIST as published",
    ]
    assert all(any(re.match(pattern, line) for line in bad) for pattern in expected), bad
    assert error.count("\n") == 1 and f"{len(bad)} problems in the data" in error
    assert "delete results/small/data and make it again with: snakemake results/small/data/manifest.json" in error


def test_sources_that_stayed_on_another_machine_are_no_problem(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared.rename(prepared.with_name("elsewhere"))
    assert cli.main(["data", "--verify"]) == 0
    assert capsys.readouterr().out.count("source, not on this machine, so not read again") == len(IDX)


def test_a_changed_archive_is_named_with_its_reason(cifar10: Path) -> None:
    prepare("small", Data(name="cifar10"))
    assert problems(data=Data(name="cifar10")) == []
    cifar10.write_bytes(cifar10.read_bytes()[:-100])
    (found,) = problems(data=Data(name="cifar10"))
    assert found.startswith(f"{cifar10} is not the source that was prepared") and "is truncated" in found


def test_an_archive_other_than_the_published_one_is_said_so_each_time(cifar10: Path) -> None:
    prepare("small", Data(name="cifar10"))
    assert [f.text for f in findings("small", Data(name="cifar10"))][-1].endswith("not the archive as published")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.arange(30) % 10 + 1}, "holds 3 labels out of range: 10, 0 to 9 allowed"),
        (
            {"labels": np.r_[1, np.arange(1, 30) % 10]},
            "images by class than the manifest says: 2 of class 0, not 3; 4 of class 1, not 3",
        ),
        ({"labels": np.arange(29) % 10}, "holds 29 labels, 30 in the manifest"),
        ({"images": np.zeros((29, 1, 6, 6), np.uint8)}, "holds 29 images, 30 in the manifest"),
        ({"images": np.zeros((30, 1, 6, 7), np.uint8)}, "holds images of (1, 6, 7), (1, 6, 6) in the manifest"),
        ({"images": np.zeros((30, 1, 6, 6), np.uint8)}, "has pixels of mean [0.0]"),
        ({"images": np.zeros((30, 1, 6, 6), np.float32)}, "holds float32 images"),
    ],
    ids=["range", "classes", "labels", "images", "size", "pixels", "type"],
)
def test_content_is_counted_even_where_its_digest_is_the_one_of_the_manifest(
    prepared: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    restore("train", **arrays)
    assert any(message in text for text in problems()), problems()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(classes=11), "0 of class 10, not None"),
        (lambda content: content["files"]["eval"].update(images=21), "holds 20 images, 21 in the manifest"),
        (lambda content: content["files"]["eval"].update(bytes=21), r"bytes, 21 in the manifest"),
        (lambda content: content.update(mean=[0.25]), r"\[0\.25\] and .* in the manifest"),
        (lambda content: content.update(channels=3), "1 means and 1 deviations for 3 channels"),
        (
            lambda content: content.update(data="digits"),
            "is of digits, evaluated on test images; params.yaml says fashion-mnist",
        ),
        (lambda content: content.update(source={}), "names no source"),
    ],
    ids=["classes", "images", "bytes", "mean", "channels", "data set", "source"],
)
def test_a_manifest_that_claims_something_else_is_contradicted(
    prepared: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    rewrite(change)
    assert any(re.search(message, text) for text in problems()), problems()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "{",
        lambda text: "[]",
        lambda text: "null",
        lambda text: "[" * 100_000,
        lambda text: text[:-30],
        lambda text: text.replace('"classes": 10', '"classes": NaN'),
        lambda text: text.replace("\n", " \n", 1),
        lambda text: text.replace('"mean"', '"mittel"'),
        lambda text: "\x80",
    ],
)
def test_a_manifest_that_is_none_is_one_line_here_and_in_training(prepared: Path, damage: Callable[[str], str]) -> None:
    text = MANIFEST.read_text()
    MANIFEST.write_bytes(damage(text).encode("latin-1"))
    (found,) = problems()
    assert found.startswith(f"{MANIFEST} ") and "snakemake results/small/data/manifest.json" in found
    with pytest.raises(UserError, match=r"manifest\.json (is damaged|was changed)"):
        batches.load("small")


@pytest.mark.parametrize(
    "key", ["data", "classes", "mean", "std", "channels", "image_size", "files", "source", "sha256"]
)
def test_a_manifest_that_lacks_a_key_is_one_line(prepared: Path, key: str) -> None:
    content = json.loads(MANIFEST.read_text())
    del content[key]
    write_json(MANIFEST, content)
    (found,) = problems()
    assert found.startswith(f"{MANIFEST} ") and (key == "sha256" or f"{key}: Field required" in found)
    with pytest.raises(UserError):
        batches.load("small")


@pytest.mark.parametrize("name", ["../../../evil.safetensors", "/etc/evil.safetensors", "train.pt"])
def test_a_manifest_leads_to_no_file_outside_its_folder(prepared: Path, name: str) -> None:
    rewrite(lambda content: content["files"]["train"].update(name=name))
    assert "files.train.name" in problems()[0]


def test_a_source_is_looked_for_in_its_folder_alone(prepared: Path) -> None:
    rewrite(lambda content: content["source"].update({"../secret": {"sha256": "0" * 64, "bytes": 1}}))
    assert "source.../secret" in problems()[0]


def test_a_lost_manifest_leaves_its_other_losses_named(prepared: Path) -> None:
    MANIFEST.unlink()
    (STUDY / "eval.safetensors").unlink()
    assert [text.split(" does not exist")[0] for text in problems()] == [str(MANIFEST), f"{STUDY}/eval.safetensors"]


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\xff" * 100])
def test_stored_files_of_any_content_end_in_lines(prepared: Path, content: bytes) -> None:
    (STUDY / "train.safetensors").write_bytes(content)
    assert any("holds no images and labels that can be read" in text for text in problems())


def test_a_folder_in_the_place_of_a_file_is_named(prepared: Path) -> None:
    (STUDY / "train.safetensors").unlink()
    (STUDY / "train.safetensors").mkdir()
    assert problems() == [f"{STUDY}/train.safetensors cannot be read (Is a directory)"]
    with pytest.raises(UserError, match="missing or damaged"):
        batches.load("small")


def test_mean_and_deviation_are_by_channel_and_those_of_numpy(cifar10: Path) -> None:
    prepare("small", Data(name="cifar10"))
    said = manifest.read_manifest("small")
    pixels = load_file(STUDY / "train.safetensors")["images"].astype(np.float64) / 255
    assert said.channels == 3 and said.image_size == (32, 32)
    np.testing.assert_allclose(said.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(said.std, pixels.std(axis=(0, 2, 3)), rtol=1e-12)
    data = batches.load("small")
    (every,) = data.of_training(slice(None)).evaluation()
    assert data.channels == 3 and every.images.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert (every.images.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-4
