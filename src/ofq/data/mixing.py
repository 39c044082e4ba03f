"""Mix the training images of a batch in pairs, and their labels: mixup and cutmix, as timm computes them."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from timm.data import Mixup

from ofq.config.recipes import TrainingRecipe
from ofq.data.batch import Batch
from ofq.data.seeds import seeded
from ofq.errors import UserError


def mixed(batch: Batch, recipe: TrainingRecipe, classes: int, purpose: str) -> Batch:
    """Mix a batch by mixup, cutmix or, where the recipe has both, one of the two at random.

        mixup:  x'_i = lam x_i + (1 - lam) x_j,  lam ~ Beta(mixup, mixup)
        cutmix: a rectangle of x_j in x_i,  1 - lam its share of the area, before clipping lam ~ Beta(cutmix, cutmix)
        labels: lam s(y_i) + (1 - lam) s(y_j),  s: one in K classes with the recipe's smoothing

    The partners i, j are the neighbours 2m, 2m + 1, and lam and the rectangle are those of the whole step, whatever
    part of its batch this is. So one process and several mix alike, if each has whole pairs.

    Args:
        batch: images (b, channels, height, width), labels (b,) int64.
        recipe: says how.
        classes: K.
        purpose: seed and step, on which alone the random numbers depend.

    Returns:
        The batch with probabilities (b, classes) float32 as labels; as it is where the recipe mixes nothing.

    Raises:
        UserError: an image has no partner.

    Source: timm.data.Mixup in mode ``batch``, whose partners are the first and the last image and so on inwards.
    """
    if not (recipe.mixup or recipe.cutmix):
        return batch
    count = len(batch.labels)
    if count % 2:
        raise UserError(
            f"{count} images of a batch of {recipe.batch_size} come to one process, and images are mixed in pairs; "
            "change batch_size or the number of processes"
        )
    mix = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.smoothing, num_classes=classes)
    # Even positions upwards, then odd ones downwards: what timm pairs from both ends inwards are then neighbours.
    positions = torch.arange(count, device=batch.labels.device)
    order = torch.cat([positions[::2], positions[1::2].flip(0)])
    back = order.argsort()
    with _numpy_drawing_from(purpose):
        images, labels = mix(batch.images[order], batch.labels[order])
    return Batch(batch.indices, images[back], labels[back])


@contextmanager
def _numpy_drawing_from(purpose: str) -> Iterator[None]:
    """Let NumPy's global random numbers, which timm draws, depend on a text alone; they go on as before afterwards."""
    before = np.random.get_state()
    np.random.seed(seeded(f"{purpose}/mixed").initial_seed() % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)
