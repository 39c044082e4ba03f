"""What a batch of images is, what serves batches, and which images of an epoch belong to one."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ofq.data.seeds import seeded
from ofq.errors import UserError

EVAL_BATCH = 256  # fixed: no setting may change a measured number


class Batch(NamedTuple):
    """Images of the training or the evaluation set."""

    indices: Tensor  # (b,) int64: their positions in the set
    images: Tensor  # (b, channels, height, width) float32
    labels: Tensor  # (b,) int64


class Batches(Protocol):
    """The images of a study, served in batches, each of which depends on the arguments alone.

    They are served where a run computes.

    Several processes share a batch, rank r of ``world`` having an equal part of it: of a training batch the r-th of as
    many parts that lie side by side, of the evaluation images every one whose position leaves the remainder r. Together
    they have exactly the images that one process alone has, so that means over all are the same but for rounding.
    """

    count: int  # of training images
    classes: int
    channels: int
    image_size: tuple[int, int]  # height and width in pixels
    streamed: bool  # whether images are read from their files at every step

    def train(self, seed: int, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """Return this rank's part of the batch of an optimizer step, counted from 0.

        Raises:
            UserError: the batch is larger than the data, or the ranks cannot have equal parts of it.
        """

    def evaluation(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Return this rank's evaluation images in order, in batches of a fixed size."""

    def of_training(self, chosen: Tensor | slice) -> "Batches":
        """Return the same data with training images of the given positions as the evaluation images, in that order."""

    def close(self) -> None:
        """End what makes training batches ahead; a later :meth:`train` begins it anew."""


class Part(NamedTuple):
    """What a process takes of a training batch."""

    epoch: int  # counted from 0
    chosen: Tensor  # (b,) int64: positions of its images in the set
    repeats: Tensor  # (b,) int64: how often the epoch had that image before


@dataclass(frozen=True)
class Order:
    """The order of training images: a permutation for each epoch, whose remainder after the last batch is dropped.

    With ``repeats`` each image that an epoch takes comes so often, in turns with one other: a b a b. An epoch keeps its
    length, so it takes fewer images.

    Args:
        count: of training images.
        repeats: of an image in an epoch.
        where: the positions are; None: on the processor.
    """

    count: int
    repeats: int = 1
    where: torch.device | None = None

    def part(self, seed: int, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Part:
        """Return a rank's part of the batch of a step, counted from 0; it depends on the arguments alone.

        Raises:
            UserError: the batch is larger than the data, or the ranks cannot have equal parts of it.
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
        places = torch.arange(first, first + part, device=self.where)
        pair, inside = places // (2 * self.repeats), places % (2 * self.repeats)
        permutation = _permutation(self.count, seed, epoch, self.where)
        return Part(epoch, permutation[2 * pair + inside % 2], inside // 2)


@lru_cache(maxsize=1)
def _permutation(count: int, seed: int, epoch: int, where: torch.device | None) -> Tensor:
    """Return the order of an epoch; the latest one is cached, because a step needs only a slice of it."""
    return torch.randperm(count, generator=seeded(f"{seed}/{epoch}")).to(where)
