"""What a reader of a user's breaks of its promise is one line, and nothing is written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ofq.config.settings import Data
from ofq.data.manifest import SourceFile, read_manifest
from ofq.data.prepare import check, prepare
from ofq.data.reader import Source
from ofq.data.readers import fashion_mnist
from ofq.errors import UserError
from tests.data.test_sources import FASHION


def given(images: np.ndarray, labels: np.ndarray) -> Source:
    good = np.arange(9 * 16, dtype=np.uint8).reshape(9, 4, 4), np.arange(9) % 3
    return Source((images, labels), good, classes=3, terms="", origin={})


IMAGES, LABELS = np.zeros((6, 4, 4), np.uint8), np.arange(6) % 3


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES, np.array([0, 1, 2, 3, 0, 1]), "labels from 0 to 3; int64 from 0 to 2 expected"),
        (IMAGES, np.array([0, 1, 2, -1, 0, 1]), "labels from -1 to 2"),
        (IMAGES, LABELS / 1.0, "have float64 labels"),
        (IMAGES, LABELS[:5], "one label for each image expected"),
        (IMAGES[:0], LABELS[:0], "one label for each image expected"),
        (IMAGES / 255, LABELS, r"are float64 \(6, 4, 4\)"),
        (np.zeros((6, 2, 4, 4), np.uint8), LABELS, r"are uint8 \(6, 2, 4, 4\)"),
        (np.zeros((6, 4, 5), np.uint8), LABELS, "differ in size"),
        (np.full((6, 4, 4), np.nan), LABELS, r"are float64 \(6, 4, 4\)"),
        (IMAGES, np.full(6, np.nan), "have float64 labels from nan"),
        (IMAGES.tolist(), LABELS, r"are \['list', 'ndarray'\]; a pair of NumPy arrays"),
        (torch.zeros(6, 4, 4, dtype=torch.uint8), LABELS, r"are \['Tensor', 'ndarray'\]; a pair of NumPy arrays"),
        (np.zeros((6, 0, 4), np.uint8), LABELS, r"are uint8 \(6, 0, 4\)"),
    ],
    ids=[
        *("too large", "negative", "no integers", "too few", "none", "no bytes", "two channels", "another size"),
        *("no numbers", "no labels", "a list", "a tensor", "no rows"),
    ],
)
def test_a_reader_that_breaks_its_promise_is_one_line(images: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check("shapes", given(images, labels))


def prepared(monkeypatch: pytest.MonkeyPatch, source: Source, evaluate: str = "test") -> None:
    """Prepare images as if a reader of the package had given them."""
    monkeypatch.setattr(fashion_mnist.FashionMnist, "read", lambda self: source)
    prepare("shapes", Data.model_validate({"name": "fashion-mnist", "evaluate": evaluate}))


def labelled(*counts: int) -> Source:
    """A source with so many training images of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.arange(len(labels) * 16, dtype=np.uint32).astype(np.uint8).reshape(-1, 4, 4)
    origin = {"shapes.npz": SourceFile(sha256="0" * 64, bytes=1)}
    return Source((images, labels), (images, labels), classes=len(counts), terms="ours", origin=origin)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((9, 9, 1), "class 2 of fashion-mnist has one training image, and evaluate: validation holds out some of each"),
        ((1, 0, 9), "class 0 of fashion-mnist has one training image"),
        ((3, 3, 3), "holds out 2 of the 9 training images of fashion-mnist, too few for its 3 classes; add images, or"),
        ((1,), "class 0 of fashion-mnist has one"),
    ],
)
def test_a_class_that_cannot_stand_on_both_sides_of_a_validation_split_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, counts: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepared(monkeypatch, labelled(*counts), "validation")
    assert not Path("results/shapes/data").exists()
    prepared(monkeypatch, labelled(*counts))


def test_an_empty_class_is_counted_and_split(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(monkeypatch, labelled(7, 0, 11), "validation")
    files = read_manifest("shapes").files
    assert [files.train.images_by_class, files.eval.images_by_class] == [[6, 0, 9], [1, 0, 2]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 3.0}, r"gives 3\.0 classes; a whole number above 0 expected"),
        ({"classes": None}, "gives None classes"),
        ({"classes": 2}, "labels from 0 to 2; int64 from 0 to 1 expected"),
        ({"terms": None}, "a Source with a wrong terms: Input should be a valid string"),
        ({"origin": {"../shapes.npz": SourceFile(sha256="0" * 64, bytes=1)}}, r"a wrong source\.\.\./shapes.*inside"),
        ({"origin": {"/shapes.npz": SourceFile(sha256="0" * 64, bytes=1)}}, "a wrong source./shapes"),
        ({"origin": {"a\nb": SourceFile(sha256="0" * 64, bytes=1)}}, "a wrong source.a b"),
        ({"origin": {"\udcff": SourceFile(sha256="0" * 64, bytes=1)}}, "a wrong source"),
        ({"origin": {"shapes.npz": "ours"}}, "a wrong source.shapes"),
        ({"train": None}, "the training images of fashion-mnist are NoneType; a pair of NumPy arrays"),
    ],
)
def test_a_source_that_breaks_its_promise_is_one_line_and_writes_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepared(monkeypatch, replace(labelled(6, 6, 6), **change))
    assert not Path("results/shapes/data").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda images, labels: (images / 255, labels), "augmented, are float64"),
        (lambda images, labels: (np.concatenate([images] * 2), labels), "one label for each image expected"),
        (lambda images, labels: (images, labels + 1), "labels from 1 to 3"),
        (lambda images, labels: (images[:, 1:], labels), "differ in size"),
        (lambda images, labels: None, "are NoneType; a pair"),
    ],
)
def test_augmented_images_are_checked_as_those_that_were_read(
    here: Path, monkeypatch: pytest.MonkeyPatch, changed: Any, message: str
) -> None:
    monkeypatch.setattr(fashion_mnist.FashionMnist, "augmented", lambda self, *pair: changed(*pair), raising=False)
    with pytest.raises(UserError, match=message):
        prepared(monkeypatch, labelled(6, 6, 6))
    assert not Path("results/shapes/data").exists()


def test_blank_images_are_refused_before_anything_is_divided_by_their_deviation(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank = given(IMAGES, LABELS)
    monkeypatch.setattr(fashion_mnist.FashionMnist, "read", lambda self: blank)
    with pytest.raises(UserError, match="are blank"):
        prepare("shapes", FASHION)


def test_images_without_an_origin_are_refused_before_anything_is_written(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    varied = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4)
    without = given(varied, LABELS)
    monkeypatch.setattr(fashion_mnist.FashionMnist, "read", lambda self: without)
    with pytest.raises(UserError, match=r"gives no origin; self\.origins\(FILE\)"):
        prepare("shapes", FASHION)
    assert not Path("results/shapes/data").exists()
