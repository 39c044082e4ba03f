"""Images that are read from their files at every step, by worker processes, and changed at random.

What is done to an example depends on (seed, epoch, index, repeat) alone, whatever the number of workers, of processes
that share a batch, and the step from which a run goes on.
"""

import atexit
import math
import os
import random
import signal
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import posterize
from timm.data.transforms_factory import transforms_imagenet_train
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, RandomHorizontalFlip

from ofq.config.recipes import UNCHANGED, Augmentation
from ofq.data.batch import EVAL_BATCH, Batch, Order
from ofq.data.listing import Listing
from ofq.data.pictures import decoded, middle
from ofq.data.seeds import number
from ofq.errors import UserError, shortened

_PIECE = 16  # images that a worker makes at a time: all workers share each batch, and few images wait in memory
_MOST_WORKERS = 16
_SERVING: set[Generator[Batch, None, None]] = set()  # what has workers that were not ended yet


class Split(NamedTuple):
    """Image files and their classes."""

    files: Listing
    labels: Tensor  # (n,) int64


class _Piece(NamedTuple):
    """Images of one batch that a worker is asked for, in plain numbers: a tensor would travel as an open file."""

    indices: list[int]  # positions in the set that is served
    files: list[int]  # positions among the files of their split
    draws: list[str] | None  # what the randomness of each depends on; None: images as they are evaluated
    last: bool  # of its batch


class _Made(NamedTuple):
    """What a worker made of a piece."""

    indices: list[int]
    images: Tensor  # (p, 3, height, width) float32
    labels: Tensor
    last: bool


@dataclass
class Streamed:
    """:class:`Batches` of image files: red, green and blue, normalised by the manifest's mean and deviation.

    A training image is cut out at random and resized (``scale``), or brought to its size as evaluation images are;
    mirrored (``flip``); changed by timm's RandAugment (``policy``) or in its colours (``jitter``); normalised; and a
    rectangle of it is filled with noise (``erasing``). All of it is timm's, with the defaults of its training script.

    Args:
        root: folder of the files.
        training: training images.
        evaluated: evaluation images.
        classes: how many there are.
        size: height and width of the images.
        crop: share of the shorter side that is kept of an image in full.
        mean: of the pixels in [0, 1], by channel.
        std: their deviation.
        augment: what is done to training images.
        repeats: of an image in an epoch.
        where: torch's name of the device of the batches.
        workers: processes that read; None: one for each processor that this process may use but one, 16 at most.
        positions: of the evaluation images among their files (n,); None: all of them.
    """

    root: Path
    training: Split
    evaluated: Split
    classes: int
    size: int
    crop: float
    mean: list[float]
    std: list[float]
    augment: Augmentation = UNCHANGED
    repeats: int = 1
    where: str = "cpu"
    workers: int | None = None
    positions: Tensor | None = None

    def __post_init__(self) -> None:
        self.streamed = True
        self.channels = 3
        self.image_size = self.size, self.size
        self.count = len(self.training.labels)
        self._order = Order(self.count, self.repeats)
        self._coming = self._served(self.training, iter(()), 1)
        self._next: tuple[int, ...] = ()  # what the batch that comes was asked for

    def train(self, seed: int, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """Return a part of a batch. It is being made already if it follows the one that was asked for last."""
        asked = (seed, batch_size, rank, world)
        if self._next != (*asked, step):
            self.close()
            pieces = self._training_pieces(seed, step, batch_size, rank, world)
            self._coming = self._served(self.training, pieces, batch_size // world)
        self._next = ()  # as long as nothing came
        batch = next(self._coming)
        self._next = (*asked, step + 1)
        return batch

    def evaluation(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Return this rank's evaluation images in order, in batches of a fixed size."""
        files = torch.arange(len(self.evaluated.labels)) if self.positions is None else self.positions
        indices = torch.arange(len(files))[rank::world]
        batches = indices.split(EVAL_BATCH)
        pieces = (piece for batch in batches for piece in _pieces(batch, files))
        return self._served(self.evaluated, pieces, EVAL_BATCH)

    def of_training(self, chosen: Tensor | slice) -> "Streamed":
        """Return the same data with training images of the given positions as the evaluation images, in that order."""
        return replace(self, evaluated=self.training, positions=torch.arange(self.count)[chosen])

    def close(self) -> None:
        """End the workers that make training batches ahead; a later :meth:`train` begins them anew."""
        self._coming.close()
        self._next = ()

    def _training_pieces(self, seed: int, step: int, batch_size: int, rank: int, world: int) -> Iterator[_Piece]:
        """Yield the pieces of a step's batch, and of all that follow."""
        while True:
            epoch, chosen, repeats = self._order.part(seed, step, batch_size, rank, world)
            draws = [f"{seed}/{epoch}/{i}/{r}" for i, r in zip(chosen.tolist(), repeats.tolist(), strict=True)]
            yield from _pieces(chosen, None, draws)
            step += 1

    def _served(self, split: Split, pieces: Iterator[_Piece], size: int) -> Generator[Batch, None, None]:
        """Yield the batches, and end the workers in order: at the end, by ``close``, or when the process ends.

        Workers take no signal, and none would be told of the end if Python's collector of circles found the loader.
        """
        serving = self._batches(split, pieces, size)
        _SERVING.add(serving)
        try:
            yield from serving
        finally:
            serving.close()
            _SERVING.discard(serving)

    def _batches(self, split: Split, pieces: Iterator[_Piece], size: int) -> Generator[Batch, None, None]:
        """Have workers make the pieces, and yield the batches; two are in the making beside the one that is used."""
        workers = _usual_workers() if self.workers is None else self.workers
        loader = DataLoader(
            _Pictures(self, split),
            batch_size=None,
            sampler=pieces,
            num_workers=workers,
            prefetch_factor=max(2, math.ceil(2 * size / _PIECE / workers)) if workers else None,
            collate_fn=_as_it_is,
            worker_init_fn=_undisturbed,
            pin_memory=self.where != "cpu",
            generator=torch.Generator(),  # otherwise it would draw from that of the training
            multiprocessing_context="fork" if workers else None,  # the names of all files are there without a copy
        )
        made: list[_Made] = []
        try:
            for piece in loader:
                if isinstance(piece, UserError):
                    raise piece
                made.append(piece)
                if piece.last:
                    indices = torch.tensor([index for part in made for index in part.indices])
                    moved = [
                        [tensor.to(self.where, non_blocking=True) for tensor in (part.images, part.labels)]
                        for part in made
                    ]  # as they are, in pinned memory
                    images, labels = map(torch.cat, zip(*moved, strict=True))
                    yield Batch(indices.to(self.where, non_blocking=True), images, labels)
                    made = []
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):  # else it is an error in a worker, told by torch
                raise
            raise UserError(
                f"a process that reads images ended ({shortened(str(error), 200)}); give it more memory, shared memory "
                "(/dev/shm) too, or set a lower data.workers in params.yaml"
            ) from None

    def transform(self, *, training: bool) -> Callable[[Image.Image], Tensor]:
        """Return what makes the numbers that a model gets (3, height, width) of an image."""
        augment = self.augment if training else UNCHANGED
        first, second, last = transforms_imagenet_train(
            self.size,
            scale=(augment.scale[0], augment.scale[1]) if augment.scale else None,
            hflip=0.5 * augment.flip,
            color_jitter=augment.jitter,
            auto_augment=augment.policy,
            mean=tuple(self.mean),
            std=tuple(self.std),
            re_prob=augment.erasing,
            re_mode="pixel",
            separate=True,
        )
        for op in second.transforms[0].ops if augment.policy else ():
            op.aug_fn = _posterized if op.aug_fn is posterize else op.aug_fn
        if augment.scale is None:
            in_full = partial(middle, size=self.size, crop=self.crop)
            first = Compose([in_full, *([RandomHorizontalFlip()] if augment.flip else [])])
        return Compose([first, second, last])


class _Pictures(Dataset[_Made | UserError]):
    """Makes pieces, in a worker or where there is none in the process itself.

    Args:
        data: says how.
        split: files that pieces name.
    """

    def __init__(self, data: Streamed, split: Split) -> None:
        self._root, self._split = os.fsencode(data.root), split
        self._changed, self._plain = (data.transform(training=training) for training in (True, False))

    def __getitem__(self, piece: _Piece) -> _Made | UserError:
        """Return the images, or the error, which a worker cannot raise without a traceback."""
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            draws = piece.draws or [""] * len(piece.files)
            images = [self._image(index, draw) for index, draw in zip(piece.files, draws, strict=True)]
        except UserError as error:
            return error
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])
        return _Made(piece.indices, torch.stack(images), self._split.labels[piece.files], piece.last)

    def _image(self, index: int, draw: str) -> Tensor:
        """Read one image and change it, by what is drawn from a text; from an empty one nothing is."""
        files = self._split.files
        path = os.path.join(self._root, files.name(index))  # noqa: PTH118, bytes
        try:
            with open(path, "rb") as file:
                content = file.read()
            if len(content) != files.sizes[index]:
                raise UserError(f"has {len(content)} bytes, and had {files.sizes[index]} when the study was prepared")
            image = decoded(content)
        except OSError as error:
            raise UserError(f"{os.fsdecode(path)} cannot be read ({error.strerror}); what is saved is kept") from None
        except UserError as error:
            raise UserError(f"{os.fsdecode(path)} {error}; what is saved is kept") from None
        if not draw:
            return self._plain(image)
        seed = number(draw)  # of all that timm's and torchvision's transforms draw from
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        return self._changed(image)


def _pieces(indices: Tensor, files: Tensor | None, draws: list[str] | None = None) -> Iterator[_Piece]:
    """Yield the pieces of a batch.

    Args:
        indices: of its images in the set that is served (b,).
        files: positions of the set's images among the files (n,); None: the same.
        draws: what the randomness of each image depends on, if anything is drawn.
    """
    for start in range(0, len(indices), _PIECE):
        part = indices[start : start + _PIECE]
        drawn = draws[start : start + _PIECE] if draws else None
        named = part if files is None else files[part]
        yield _Piece(part.tolist(), named.tolist(), drawn, start + _PIECE >= len(indices))


def _posterized(image: Image.Image, bits: int, **options: Any) -> Image.Image:
    """Keep so many bits of each colour; for the 0 that timm asks for at times, Pillow gave black and now refuses."""
    return posterize(image, bits, **options) if bits else Image.new(image.mode, image.size)


def _as_it_is(made: Any) -> Any:
    return made


def _undisturbed(worker: int) -> None:
    """Leave it to the training process what signals mean that all processes of a terminal or a job get."""
    for told in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(told, signal.SIG_IGN)


@atexit.register
def _end_workers() -> None:
    """End them in order: the signal by which Python would end them is none to them."""
    for serving in list(_SERVING):
        serving.close()


def _usual_workers() -> int:
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes that torchrun started on this machine
    return min(_MOST_WORKERS, max(0, len(os.sched_getaffinity(0)) // beside - 1))
