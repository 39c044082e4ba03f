"""Change training images at random: what is done to an image depends on (seed, epoch, index) alone.

Integers are drawn on the processor and applied where the images are, by moving and blanking pixels. Nothing is
interpolated, so images are the same to the bit on every device. Policies that turn images or change colours would not
be: they round differently, and are for streamed images (:mod:`ofq.data.streamed`), which the processor changes.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ofq.config.recipes import Augmentation
from ofq.data.seeds import seeded
from ofq.errors import UserError


def check(augment: Augmentation, image_size: tuple[int, int]) -> None:
    """Raise :class:`UserError` if an augmentation could leave nothing of images of the given height and width."""
    for name in ("crop", "cutout"):
        if (pixels := getattr(augment, name)) >= min(image_size):
            size = "x".join(map(str, image_size))
            raise UserError(
                f"augment.{name} {pixels} can leave nothing of images of {size} pixels; lower it in params.yaml"
            )


@lru_cache(maxsize=1)
def drawn(
    augment: Augmentation, count: int, image_size: tuple[int, int], seed: int, epoch: int, where: torch.device
) -> Tensor:
    """Draw for every image of an epoch what is done to it; the latest epoch is cached, because a step needs a part.

    One setting does not change what another draws.

    Args:
        augment: what may be done.
        count: of training images, n.
        image_size: height and width in pixels.
        seed: of the order of the images.
        epoch: counted from 0.
        where: the images are.

    Returns:
        (n, 5) int64: row and column at which the crop begins in the framed image, 1 if it is mirrored, row and column
        of the middle of the hole.
    """
    shifts, (height, width) = 2 * augment.crop + 1, image_size
    limits = {
        "crop row": shifts,
        "crop column": shifts,
        "flip": 2 if augment.flip else 1,
        "cutout row": height,
        "cutout column": width,
    }
    draws = [torch.randint(most, (count,), generator=seeded(f"{seed}/{epoch}/{name}")) for name, most in limits.items()]
    return torch.stack(draws, dim=1).to(where)


def moved(images: Tensor, draws: Tensor, crop: int) -> Tensor:
    """Cut each image's size out of the image in a black frame, and mirror it left to right, as drawn.

    torchvision's ``RandomCrop(size, padding=crop)`` and ``RandomHorizontalFlip`` do the same to images that are not
    normalised yet.

    Args:
        images: pixels, 0 is black (b, channels, height, width).
        draws: of these images (b, 5).
        crop: width of the frame in pixels.
    """
    height, width = images.shape[2:]
    top, left, mirrored = draws[:, :3, None].unbind(dim=1)  # (b, 1) each
    across = torch.arange(width, device=images.device)
    rows = top + torch.arange(height, device=images.device)  # (b, height)
    columns = left + torch.where(mirrored == 1, width - 1 - across, across)  # (b, width)
    framed = F.pad(images, [crop] * 4)  # (b, channels, height + 2 crop, width + 2 crop)
    return framed.take_along_dim(rows[:, None, :, None], dim=2).take_along_dim(columns[:, None, None, :], dim=3)


def blanked(images: Tensor, draws: Tensor, cutout: int) -> Tensor:
    """Set a square of each image to 0, the mean colour, around the drawn middle; beyond the image it is cut off.

    Args:
        images: normalised (b, channels, height, width).
        draws: of these images (b, 5).
        cutout: side of the square in pixels.

    Source: DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017.
    """
    # Rows and columns, counted from the first of the square (b, height) and (b, width).
    inside = [
        torch.arange(size, device=images.device) - middle[:, None] + cutout // 2
        for size, middle in zip(images.shape[2:], draws[:, 3:].unbind(dim=1), strict=True)
    ]
    rows, columns = ((offset >= 0) & (offset < cutout) for offset in inside)
    return images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0.0)
