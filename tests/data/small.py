"""Small stand-ins for the files that people download, in the same layouts, and what is expected of them."""

import gzip
import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ofq.config.settings import Data
from ofq.data.reader import Source, reader_of
from ofq.data.readers import cifar, fashion_mnist
from ofq.data.readers.fashion_mnist import Published

RNG = np.random.default_rng(0)
IDX = {
    "train-images-idx3-ubyte.gz": RNG.integers(0, 256, (30, 6, 6), dtype=np.uint8),
    "train-labels-idx1-ubyte.gz": np.arange(30, dtype=np.uint8) % 10,
    "t10k-images-idx3-ubyte.gz": RNG.integers(0, 256, (20, 6, 6), dtype=np.uint8),
    "t10k-labels-idx1-ubyte.gz": np.arange(20, dtype=np.uint8) % 10,
}
CIFAR10 = replace(
    cifar.LAYOUTS["cifar10"],
    train={f"cifar-10-batches-bin/data_batch_{i}.bin": 4 for i in range(1, 6)},
    test={"cifar-10-batches-bin/test_batch.bin": 10},
)
CIFAR100 = replace(
    cifar.LAYOUTS["cifar100"],
    train={"cifar-100-binary/train.bin": 100},
    test={"cifar-100-binary/test.bin": 100},
)


def read(data: Data) -> Source:
    """The data set that a study names."""
    return reader_of(data).read()


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_fashion(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four idx files of 30 and 20 images of 6x6 pixels, taken for the published ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in IDX.items():
        content = idx_bytes(array)
        (folder / name).write_bytes(gzip.compress(content, mtime=0))
        monkeypatch.setitem(
            fashion_mnist.FASHION_MNIST, name, Published(array.shape, hashlib.sha256(content).hexdigest())
        )


def records(labels: np.ndarray, layout: cifar.Layout) -> bytes:
    """Records of the labels with random pixels; a coarse label, which is to be ignored, is 255."""
    content = RNG.integers(0, 256, (len(labels), layout.label_bytes + cifar.PIXELS), dtype=np.uint8)
    content[:, 0] = 255
    content[:, layout.label_bytes - 1] = labels
    return content.tobytes()


def cifar_members(layout: cifar.Layout) -> dict[str, bytes]:
    """The archive's members, with equally many labels of each class."""
    content = {}
    for part in (layout.train, layout.test):
        labels, start = np.arange(sum(part.values())) % layout.classes, 0
        for name, count in part.items():
            content[name] = records(labels[start : start + count], layout)
            start += count
    return content


def write_tar(path: Path, content: dict[str, bytes], *extra: tarfile.TarInfo, format: int = tarfile.GNU_FORMAT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", format=format) as archive:
        for member in extra:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
