"""The UCI handwritten digits as in scikit-learn: 1,797 images of 8x8 pixels with 17 grey levels."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from ofq.data.manifest import SourceFile
from ofq.data.reader import Images, Labels, Reader, Source
from ofq.errors import UserError
from ofq.runs.registry import register

DIGITS = "sklearn.datasets.load_digits"
DIGITS_SHA256 = "be45d48a5e9c57a062bc3a34bfc9e916d0b467e92623a0a350a978a642b9ab17"
AFFINE_COPIES = 10  # per training image: with the 1,200 originals alone a teacher overfits
_AFFINE_SEED = 0


@register("digits")
class Digits(Reader):
    """They stand in no file of their own, and come without a split: ours is 1,200 to 597, stratified by class."""

    def read(self) -> Source:
        """Read them from scikit-learn and split them; other arrays than those of this project are refused."""
        from sklearn.model_selection import train_test_split

        levels, labels = arrays()
        actual = _origin(levels, labels)
        if actual.sha256 != DIGITS_SHA256:
            raise UserError(
                f"{DIGITS} gives other digits than those of this project (sha256 {actual.sha256[:12]}..., "
                f"{DIGITS_SHA256[:12]}... expected); install the scikit-learn of envs/constraints.txt"
            )
        images = np.round(levels * (255 / 16)).astype(np.uint8)
        train, test = train_test_split(np.arange(len(labels)), test_size=597, stratify=labels, random_state=0)
        return Source(
            (images[train], labels[train]),
            (images[test], labels[test]),
            classes=10,
            terms="UCI Optical Recognition of Handwritten Digits, as packaged by scikit-learn (CC BY 4.0)",
            origin={DIGITS: actual},
        )

    def augmented(self, images: Images, labels: Labels) -> tuple[Images, Labels]:
        """Append copies of each image, rotated by up to 0.2 rad, scaled by up to 12 %, shifted by up to 0.8 pixels.

        They are made once, before training: the usual augmentation, a shift by one pixel, moves an 8x8 digit by an
        eighth.
        """
        from scipy.ndimage import affine_transform

        rng = np.random.default_rng(_AFFINE_SEED)
        centre = (np.array(images.shape[1:]) - 1) / 2
        copies = [images]
        for _ in range(AFFINE_COPIES):
            copy = np.empty_like(images)
            for i, image in enumerate(images):
                angle, scale, shift = rng.uniform(-0.2, 0.2), rng.uniform(0.88, 1.12), rng.uniform(-0.8, 0.8, size=2)
                rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
                offset = centre - rotation @ (centre + shift)
                moved = affine_transform(image.astype(np.float64), rotation, offset, order=1)
                copy[i] = np.clip(np.round(moved), 0, 255).astype(np.uint8)
            copies.append(copy)
        return np.concatenate(copies), np.tile(labels, AFFINE_COPIES + 1)

    def place(self, name: str) -> str:
        """Return the name of scikit-learn's function."""
        return name

    def origin_here(self, name: str) -> SourceFile:
        """Return what the function gives now."""
        return _origin(*arrays())


def arrays() -> tuple[NDArray[np.float64], Labels]:
    """Return grey levels from 0 to 16 (n, 8, 8) and labels (n,) as scikit-learn has them."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, bunch.target.astype(np.int64)


def _origin(levels: NDArray[np.float64], labels: Labels) -> SourceFile:
    """Return a digest of the arrays' shapes and values, in types that do not depend on the machine."""
    content = (
        f"{levels.shape} {labels.shape}".encode() + levels.astype("<f8").tobytes() + labels.astype("<i8").tobytes()
    )
    return SourceFile(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
