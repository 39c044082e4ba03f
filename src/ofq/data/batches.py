"""Serve a study's prepared images as batches that depend on (seed, epoch, index) alone."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ofq.config.recipes import UNCHANGED, Augmentation
from ofq.data.augment import blanked, check, drawn, moved
from ofq.data.manifest import Manifest, Stored, again, read_manifest
from ofq.data.seeds import seeded
from ofq.errors import UserError
from ofq.runs.paths import data_dir
from ofq.runs.provenance import file_digest

EVAL_BATCH = 256  # fixed: no setting may change a measured number


class Batch(NamedTuple):
    """Images of the training or the evaluation set."""

    indices: Tensor  # (b,) int64: their positions in the set
    images: Tensor  # (b, channels, height, width) float32
    labels: Tensor  # (b,) int64


class Batches(Protocol):
    """The images of a study, served in batches, each of which depends on the arguments alone.

    They are served where they are kept, which is where a run computes.

    Several processes share a batch, rank r of ``world`` having an equal part of it: of a training batch the r-th of as
    many parts that lie side by side, of the evaluation images every one whose position leaves the remainder r. Together
    they have exactly the images that one process alone has, so that means over all are the same but for rounding.
    """

    count: int  # of training images
    classes: int
    channels: int
    image_size: tuple[int, int]  # height and width in pixels

    def train(self, seed: int, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """Return this rank's part of the batch of an optimizer step, counted from 0.

        Raises:
            UserError: the batch is larger than the data, or the ranks cannot have equal parts of it.
        """

    def evaluation(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Return this rank's evaluation images in order, in batches of a fixed size."""

    def of_training(self, chosen: Tensor | slice) -> "Batches":
        """Return the same data with training images of the given positions as the evaluation images, in that order."""


@dataclass
class InMemory:
    """:class:`Batches` of a study's images in memory, of the processor or of another device; batches are there too.

    They are kept as pixels, a quarter of the numbers that a model takes, because several runs may share a device. A
    batch is normalised by the mean and deviation of the training pixels; every operation of it is rounded correctly, so
    it is the same to the bit on every device. Training images are augmented, those of :meth:`evaluation` never.
    """

    train_images: Tensor  # (n, channels, height, width) uint8
    train_labels: Tensor  # (n,) int64
    eval_images: Tensor
    eval_labels: Tensor
    classes: int
    mean: Tensor  # (1, channels, 1, 1) float32, of pixels in [0, 1]
    std: Tensor
    augment: Augmentation = UNCHANGED

    def __post_init__(self) -> None:
        self.count = len(self.train_labels)
        self.channels = self.train_images.shape[1]
        self.image_size = self.train_images.shape[2], self.train_images.shape[3]
        self._where = self.train_images.device
        # A tensor: by a plain number a GPU multiplies with the rounded inverse.
        self._white = torch.full_like(self.mean, 255)

    def train(self, seed: int, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """Return a part of a slice of the epoch's permutation, the epoch's remainder dropped.

        It depends on its arguments alone, so resuming at any step continues the same sequence.
        """
        if batch_size > self.count:
            raise UserError(
                f"batch_size {batch_size} is larger than the {self.count} training images; lower it in params.yaml"
            )
        if batch_size % world:
            raise UserError(f"{world} processes cannot share a batch_size of {batch_size}; change it in params.yaml")
        epoch, position = divmod(step, self.count // batch_size)
        part = batch_size // world
        first = position * batch_size + rank * part
        chosen = _permutation(self.count, seed, epoch, self._where)[first : first + part]
        images, labels = self.train_images[chosen], self.train_labels[chosen]
        if self.augment == UNCHANGED:
            return Batch(chosen, self._normalised(images), labels)
        draws = drawn(self.augment, self.count, self.image_size, seed, epoch, self._where)[chosen]
        images = self._normalised(moved(images, draws, self.augment.crop))
        return Batch(chosen, blanked(images, draws, self.augment.cutout), labels)

    def evaluation(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Return this rank's evaluation images in order, in batches of a fixed size."""
        positions = torch.arange(len(self.eval_labels), device=self._where)
        parts = (each[rank::world].split(EVAL_BATCH) for each in (positions, self.eval_images, self.eval_labels))
        return (Batch(chosen, self._normalised(images), labels) for chosen, images, labels in zip(*parts, strict=True))

    def of_training(self, chosen: Tensor | slice) -> "InMemory":
        """Return the same data with training images of the given positions as the evaluation images, in that order."""
        return replace(self, eval_images=self.train_images[chosen], eval_labels=self.train_labels[chosen])

    def _normalised(self, images: Tensor) -> Tensor:
        return (images.float() / self._white - self.mean) / self.std


def load(study: str, augment: Augmentation = UNCHANGED, where: str = "cpu") -> InMemory:
    """Load the prepared data of a study and check it against its manifest.

    Args:
        study: its name.
        augment: what is done to training images.
        where: torch's name of the device on which the images are kept and batches are made.

    Raises:
        UserError: a file is missing or changed; names it and how to make it again. Or the augmentation does not suit
            the images.
    """
    manifest = read_manifest(study)
    check(augment, manifest.image_size)
    train, evaluation = (_split(study, manifest, stored) for stored in (manifest.files.train, manifest.files.eval))
    mean, std = (torch.tensor(value, dtype=torch.float32).view(1, -1, 1, 1) for value in (manifest.mean, manifest.std))
    train_images, train_labels, eval_images, eval_labels, mean, std = (
        each.to(where) for each in (*train, *evaluation, mean, std)
    )
    return InMemory(train_images, train_labels, eval_images, eval_labels, manifest.classes, mean, std, augment)


def _split(study: str, manifest: Manifest, stored: Stored) -> tuple[Tensor, Tensor]:
    path = data_dir(study) / stored.name
    try:
        if file_digest(path) != stored.sha256:
            raise UserError(f"{path} differs from its manifest (sha256); {again(study)}")
        content = load_file(path)
        images, labels = content["images"], content["labels"]
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{path} is missing or damaged ({error}); {again(study)}") from None
    if images.shape != (stored.images, manifest.channels, *manifest.image_size) or labels.shape != (stored.images,):
        raise UserError(f"{path} holds other shapes than its manifest says; {again(study)}")
    return images, labels


@lru_cache(maxsize=1)
def _permutation(count: int, seed: int, epoch: int, where: torch.device) -> Tensor:
    """Return the order of an epoch; the latest one is cached, because a step needs only a slice of it."""
    return torch.randperm(count, generator=seeded(f"{seed}/{epoch}")).to(where)
