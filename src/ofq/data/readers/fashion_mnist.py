"""Fashion-MNIST in its original idx files, whose contents are known to the last bit: 28x28 pixels."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ofq.data.packed import unpacked
from ofq.data.reader import Reader, Source
from ofq.errors import UserError
from ofq.runs.registry import register


@dataclass(frozen=True)
class Published:
    """Shape of a file's values, and sha256 of its unpacked content: gzip may pack the same bytes differently."""

    shape: tuple[int, ...]
    sha256: str


FASHION_MNIST = {
    "train-images-idx3-ubyte.gz": Published(
        (60_000, 28, 28), "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    "train-labels-idx1-ubyte.gz": Published(
        (60_000,), "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
    ),
    "t10k-images-idx3-ubyte.gz": Published(
        (10_000, 28, 28), "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
    ),
    "t10k-labels-idx1-ubyte.gz": Published(
        (10_000,), "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
    ),
}


@register("fashion-mnist")
class FashionMnist(Reader):
    """60,000 training and 10,000 test images."""

    def read(self) -> Source:
        """Read the four files."""
        content = {name: read_idx(self.folder / name, published) for name, published in FASHION_MNIST.items()}
        train, test = (
            (content[f"{part}-images-idx3-ubyte.gz"], content[f"{part}-labels-idx1-ubyte.gz"].astype(np.int64))
            for part in ("train", "t10k")
        )
        terms = "Fashion-MNIST, MIT licence, Copyright (c) 2017 Zalando SE"
        return Source(train, test, classes=10, terms=terms, origin=self.origins(*FASHION_MNIST))

    def examine(self, name: str) -> None:
        """Read one of the files."""
        if name in FASHION_MNIST:
            read_idx(self.folder / name, FASHION_MNIST[name])
        else:
            self.read()


def read_idx(path: Path, published: Published) -> NDArray[np.uint8]:
    """Read a gzipped idx file of unsigned bytes: magic number, sizes (big endian), values.

    No more is unpacked than the published file holds.

    Raises:
        UserError: the file is missing, cut short, damaged, or differs in content from the published one.
    """
    start = 4 + 4 * len(published.shape)
    most = start + int(np.prod(published.shape))
    content = unpacked(
        path, most, "download the four Fashion-MNIST idx .gz files there, or set data.root in params.yaml"
    )
    if (digest := hashlib.sha256(content).hexdigest()) != published.sha256:
        raise UserError(
            f"{path} is not Fashion-MNIST as published: its content has sha256 {digest[:12]}..., "
            f"{published.sha256[:12]}... expected; download it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(published.shape)
