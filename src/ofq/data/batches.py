"""Serve a study's prepared images as batches that depend on (seed, epoch, index) alone."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ofq.config.recipes import UNCHANGED, Augmentation, check_images
from ofq.data.augment import blanked, check, drawn, moved
from ofq.data.batch import EVAL_BATCH, Batch, Batches, Order
from ofq.data.listing import Listing
from ofq.data.manifest import Manifest, Stored, again, read_manifest
from ofq.data.streamed import Split, Streamed
from ofq.errors import UserError
from ofq.runs.files import read_json
from ofq.runs.paths import data_dir, data_info, folder_named
from ofq.runs.provenance import file_digest


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
    repeats: int = 1  # of an image in an epoch

    def __post_init__(self) -> None:
        self.count = len(self.train_labels)
        self.streamed = False
        self.channels = self.train_images.shape[1]
        self.image_size = self.train_images.shape[2], self.train_images.shape[3]
        self._where = self.train_images.device
        self._order = Order(self.count, self.repeats, self._where)
        # A tensor: by a plain number a GPU multiplies with the rounded inverse.
        self._white = torch.full_like(self.mean, 255)

    def train(self, seed: int, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """Return a part of a slice of the epoch's permutation, the epoch's remainder dropped.

        It depends on its arguments alone, so resuming at any step continues the same sequence.
        """
        epoch, chosen, repeats = self._order.part(seed, step, batch_size, rank, world)
        images, labels = self.train_images[chosen], self.train_labels[chosen]
        if self.augment == UNCHANGED:
            return Batch(chosen, self._normalised(images), labels)
        draws = drawn(self.augment, self.repeats * self.count, self.image_size, seed, epoch, self._where)
        draws = draws[self.count * repeats + chosen]
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

    def close(self) -> None:
        """Do nothing: no batch is made ahead."""

    def _normalised(self, images: Tensor) -> Tensor:
        return (images.float() / self._white - self.mean) / self.std


def load(
    study: str,
    augment: Augmentation = UNCHANGED,
    where: str = "cpu",
    *,
    repeats: int = 1,
    workers: int | None = None,
) -> Batches:
    """Load the prepared data of a study and check it against its manifest.

    Args:
        study: its name.
        augment: what is done to training images.
        where: torch's name of the device on which batches are made, and images in memory are kept.
        repeats: of an image in an epoch.
        workers: processes that read streamed images; None: as many as the processors allow.

    Raises:
        UserError: a file is missing or changed; names it and how to make it again. Or the augmentation does not suit
            the images.
    """
    manifest = read_manifest(study)
    check_images(augment, streamed=manifest.streamed)
    check(augment, manifest.image_size)
    train, evaluation = (_arrays(study, manifest, stored) for stored in (manifest.files.train, manifest.files.eval))
    if manifest.folders is not None and manifest.streamed:
        info = read_json(data_info(study), dict[str, Any], mend=again(study))
        if not isinstance(info.get("root"), str):
            raise UserError(f"{data_info(study)} does not name the folder of the images; {again(study)}")
        root = folder_named(info["root"])
        if not root.is_dir():
            raise UserError(
                f"{root} not found, from which the images of {study} are streamed; mount it, or set "
                f"studies.{study}.data.root in params.yaml and run snakemake again"
            )
        return Streamed(
            root,
            _files(train),
            _files(evaluation),
            manifest.classes,
            manifest.image_size[0],
            manifest.folders.crop,
            manifest.mean,
            manifest.std,
            augment,
            repeats,
            where,
            workers,
        )
    mean, std = (torch.tensor(value, dtype=torch.float32).view(1, -1, 1, 1) for value in (manifest.mean, manifest.std))
    train_images, train_labels, eval_images, eval_labels, mean, std = (
        each.to(where)
        for each in (train["images"], train["labels"], evaluation["images"], evaluation["labels"], mean, std)
    )
    return InMemory(train_images, train_labels, eval_images, eval_labels, manifest.classes, mean, std, augment, repeats)


def _arrays(study: str, manifest: Manifest, stored: Stored) -> dict[str, Tensor]:
    """Return what a file of prepared images holds, and nothing that is not needed: of files no digests."""
    path = data_dir(study) / stored.name
    names = ["labels", *(("names", "ends", "sizes") if manifest.streamed else ("images",))]
    try:
        if file_digest(path) != stored.sha256:
            raise UserError(f"{path} differs from its manifest (sha256); {again(study)}")
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{path} is missing or damaged ({error}); {again(study)}") from None
    count, pixels = stored.images, (manifest.channels, *manifest.image_size)
    shapes = {"images": (count, *pixels), "names": found["names"].shape if manifest.streamed else ()}
    if any(found[name].shape != shapes.get(name, (count,)) for name in names):
        raise UserError(f"{path} holds other shapes than its manifest says; {again(study)}")
    return found


def _files(arrays: dict[str, Tensor]) -> Split:
    names, ends, sizes = (arrays[name].numpy() for name in ("names", "ends", "sizes"))
    return Split(Listing(names, ends, sizes, np.zeros((0, 32), np.uint8)), arrays["labels"])
