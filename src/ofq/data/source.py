"""Read a data set from its source: scikit-learn's package, or downloaded files."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ofq.config.settings import Data
from ofq.data.cifar import LAYOUTS, read_cifar
from ofq.data.idx import FASHION_MNIST, read_idx
from ofq.data.manifest import SourceFile
from ofq.data.packed import origin
from ofq.errors import UserError

Images = NDArray[np.uint8]  # (n, height, width), or (n, channels, height, width)
Labels = NDArray[np.int64]  # (n,)

DIGITS = "sklearn.datasets.load_digits"
DIGITS_SHA256 = "be45d48a5e9c57a062bc3a34bfc9e916d0b467e92623a0a350a978a642b9ab17"


@dataclass(frozen=True)
class Source:
    """A data set as its authors give it, split into training and test images."""

    train: tuple[Images, Labels]
    test: tuple[Images, Labels]
    classes: int
    terms: str
    origin: dict[str, SourceFile]  # the files that were read, by their names in the data set's folder


def read(data: Data) -> Source:
    """Read the data set that a study names.

    Raises:
        UserError: a file is missing, damaged, or not what it should be; in one line.
    """
    return _READERS[data.name](data)


def folder(data: Data) -> Path:
    """Return the folder of a data set's downloaded files."""
    try:
        return Path(data.root or f"data/{data.name}").expanduser()
    except RuntimeError:
        raise UserError(f"data.root '{data.root}': no such home directory; write the whole path, without ~") from None


def place(data: Data, name: str) -> str:
    """Return where a source is, for people: a path, or the name of a library's function."""
    return name if name == DIGITS else str(folder(data) / name)


def origin_here(data: Data, name: str) -> SourceFile | None:
    """Return what a source is on this machine now, or None if it is not there."""
    if name == DIGITS:
        return _digits_origin(*_digits_arrays())
    path = folder(data) / name
    return origin(path) if path.exists() else None


def examine(data: Data, name: str) -> None:
    """Read one source file if its data set allows that, else the whole data set.

    Raises:
        UserError: what is wrong with it.
    """
    if data.name == "fashion-mnist" and name in FASHION_MNIST:
        read_idx(folder(data) / name, FASHION_MNIST[name])
    else:
        read(data)


def _digits(data: Data) -> Source:
    """Read the UCI handwritten digits as in scikit-learn: 1,797 images of 8x8 pixels with 17 grey levels.

    They come without a split; ours is 1,200 for training and 597 for testing, stratified by class.
    """
    from sklearn.model_selection import train_test_split

    levels, labels = _digits_arrays()
    actual = _digits_origin(levels, labels)
    if actual.sha256 != DIGITS_SHA256:
        raise UserError(
            f"{DIGITS} gives other digits than those of this project (sha256 {actual.sha256[:12]}..., "
            f"{DIGITS_SHA256[:12]}... expected); install the scikit-learn of envs/constraints.txt"
        )
    images = np.round(levels * (255 / 16)).astype(np.uint8)
    train, test = train_test_split(np.arange(len(labels)), test_size=597, stratify=labels, random_state=0)
    terms = "UCI Optical Recognition of Handwritten Digits, as packaged by scikit-learn (CC BY 4.0)"
    return Source(
        (images[train], labels[train]), (images[test], labels[test]), classes=10, terms=terms, origin={DIGITS: actual}
    )


def _digits_arrays() -> tuple[NDArray[np.float64], Labels]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, bunch.target.astype(np.int64)


def _digits_origin(levels: NDArray[np.float64], labels: Labels) -> SourceFile:
    """Return a digest of the arrays' shapes and values, in types that do not depend on the machine."""
    content = (
        f"{levels.shape} {labels.shape}".encode() + levels.astype("<f8").tobytes() + labels.astype("<i8").tobytes()
    )
    return SourceFile(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


def _fashion(data: Data) -> Source:
    """Read Fashion-MNIST from its original idx files: 60,000 and 10,000 images of 28x28 pixels."""
    here = folder(data)
    content = {name: read_idx(here / name, published) for name, published in FASHION_MNIST.items()}
    train, test = (
        (content[f"{part}-images-idx3-ubyte.gz"], content[f"{part}-labels-idx1-ubyte.gz"].astype(np.int64))
        for part in ("train", "t10k")
    )
    terms = "Fashion-MNIST, MIT licence, Copyright (c) 2017 Zalando SE"
    return Source(train, test, classes=10, terms=terms, origin={name: origin(here / name) for name in FASHION_MNIST})


def _cifar(data: Data) -> Source:
    """Read CIFAR-10, or CIFAR-100 with its fine labels: 50,000 and 10,000 colour images of 32x32 pixels."""
    here, layout = folder(data), LAYOUTS[data.name]
    train, test = read_cifar(here, layout)
    archive = origin(here / layout.archive, md5=layout.md5)
    name = f"CIFAR-{layout.classes}"
    terms = f"{name}, no formal licence; cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
    if not archive.as_published:
        terms += f"; read from a {layout.archive} that is not the published one, so perhaps other images"
    return Source(train, test, classes=layout.classes, terms=terms, origin={layout.archive: archive})


_READERS = {"digits": _digits, "fashion-mnist": _fashion, "cifar10": _cifar, "cifar100": _cifar}
