"""Serve a study's prepared images as batches that depend on (seed, epoch, index) alone."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ofq.data.manifest import Manifest, Stored, again, read_manifest
from ofq.errors import UserError
from ofq.runs.paths import data_dir
from ofq.runs.provenance import file_digest

EVAL_BATCH = 256  # fixed: no setting may change a measured number


class Batch(NamedTuple):
    """The images of one optimizer step."""

    images: Tensor  # (b, channels, height, width) float32
    labels: Tensor  # (b,) int64
    teacher_logits: Tensor | None  # (b, classes) float32, where they are stored


@dataclass(frozen=True)
class StudyData:
    """The images of a study in memory, normalised by the mean and standard deviation of its training pixels."""

    train_images: Tensor  # (n, channels, height, width) float32
    train_labels: Tensor  # (n,) int64
    eval_images: Tensor
    eval_labels: Tensor
    classes: int
    teacher_logits: Tensor | None = None  # (n, classes) float32: a teacher's, for every training image

    @property
    def channels(self) -> int:
        """Colour channels of the images."""
        return self.train_images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.train_images.shape[2], self.train_images.shape[3]

    def train_batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """Return the batch of an optimizer step: a slice of the epoch's permutation, the epoch's remainder dropped.

        It depends on its arguments alone, so resuming at any step continues the same sequence.
        """
        count = len(self.train_labels)
        if batch_size > count:
            raise UserError(
                f"batch_size {batch_size} is larger than the {count} training images; lower it in params.yaml"
            )
        epoch, position = divmod(step, count // batch_size)
        chosen = _permutation(count, seed, epoch)[position * batch_size : (position + 1) * batch_size]
        logits = None if self.teacher_logits is None else self.teacher_logits[chosen]
        return Batch(self.train_images[chosen], self.train_labels[chosen], logits)

    def eval_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Return all evaluation images and labels in order, in batches of a fixed size."""
        return zip(self.eval_images.split(EVAL_BATCH), self.eval_labels.split(EVAL_BATCH), strict=True)


def load(study: str) -> StudyData:
    """Load the prepared data of a study and check it against its manifest.

    Raises:
        UserError: a file is missing or changed; names it and how to make it again.
    """
    manifest = read_manifest(study)
    mean, std = (torch.tensor(value, dtype=torch.float32).view(1, -1, 1, 1) for value in (manifest.mean, manifest.std))
    train_images, train_labels = _split(study, manifest, manifest.files.train)
    eval_images, eval_labels = _split(study, manifest, manifest.files.eval)
    return StudyData(
        (train_images.float() / 255 - mean) / std,
        train_labels,
        (eval_images.float() / 255 - mean) / std,
        eval_labels,
        manifest.classes,
    )


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
def _permutation(count: int, seed: int, epoch: int) -> Tensor:
    """Return the order of an epoch; the latest one is cached, because a step needs only a slice of it."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.randperm(count, generator=generator)
