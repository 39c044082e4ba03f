"""Read a data set from where it comes from: scikit-learn's package, or downloaded idx files."""

import gzip
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ofq.errors import UserError
from ofq.params import Data

Images = NDArray[np.uint8]  # (n, height, width)
Labels = NDArray[np.int64]  # (n,)


@dataclass(frozen=True)
class Source:
    """A data set as its authors give it, split into training and test images."""

    train: tuple[Images, Labels]
    test: tuple[Images, Labels]
    classes: int
    terms: str


def read(data: Data) -> Source:
    """Read the data set that a study names."""
    return _READERS[data.name](data)


def _digits(data: Data) -> Source:
    """UCI handwritten digits as in scikit-learn: 1,797 images of 8x8 pixels with 17 grey levels.

    They come without a split; ours is 1,200 for training and 597 for testing, stratified by class.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=597, stratify=labels, random_state=0)
    terms = "UCI Optical Recognition of Handwritten Digits, as packaged by scikit-learn (CC BY 4.0)"
    return Source((images[train], labels[train]), (images[test], labels[test]), classes=10, terms=terms)


def _fashion_mnist(data: Data) -> Source:
    """Fashion-MNIST in its original idx files: 60,000 and 10,000 images of 28x28 pixels."""
    root = Path(data.root or "data/fashion-mnist").expanduser()
    train = _idx(root / "train-images-idx3-ubyte.gz", 3), _idx(root / "train-labels-idx1-ubyte.gz", 1)
    test = _idx(root / "t10k-images-idx3-ubyte.gz", 3), _idx(root / "t10k-labels-idx1-ubyte.gz", 1)
    for name, (images, labels), count in (("train", train, 60_000), ("test", test, 10_000)):
        if len(images) != count or len(labels) != count:
            raise UserError(f"{root}: {len(images)} {name} images and {len(labels)} labels, {count} of each expected")
    terms = "Fashion-MNIST, MIT licence, Copyright (c) 2017 Zalando SE"
    return Source((train[0], train[1].astype(np.int64)), (test[0], test[1].astype(np.int64)), classes=10, terms=terms)


def _idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read a gzipped idx file of unsigned bytes: magic number, sizes (big endian), values."""
    try:
        with gzip.open(path) as file:
            content = file.read()
    except FileNotFoundError:
        raise UserError(
            f"{path} not found; download the four Fashion-MNIST idx .gz files there, or set data.root in params.yaml"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); download it again") from None
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes((0, 0, 8, dimensions)):
        raise UserError(f"{path} is no idx file of {dimensions}-dimensional unsigned bytes; download it again")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != np.prod(shape):
        raise UserError(f"{path} holds {len(content) - header} values where its header says {shape}; download it again")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


_READERS: dict[str, Callable[[Data], Source]] = {"digits": _digits, "fashion-mnist": _fashion_mnist}
