"""Use a finished or exported model: on a study's images, and on image files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ofq.data import batches
from ofq.data.batch import Batches
from ofq.data.pictures import decoded, middle, pixels
from ofq.errors import UserError, refused
from ofq.export.header import About, Images
from ofq.training.loop import evaluate

SAME = 1e-4
"""Logits that differ by less are the same, but for the order of sums."""
LIKELY = 3
"""Classes that are told of an image, the most probable ones."""


def data_for(about: About, study: str) -> Batches:
    """Load a study's images, if a model takes them.

    Raises:
        UserError: they are missing or damaged, or of another size, other channels or classes.
    """
    data = batches.load(study)
    of_model = about.images.size, about.images.channels, about.classes
    of_study = tuple(data.image_size), data.channels, data.classes
    if of_model != of_study:
        words = ["{0[0]}x{0[1]} pixels, {1} channels and {2} classes".format(*each) for each in (of_model, of_study)]
        raise UserError(f"the model takes images of {words[0]}, and those of {study} have {words[1]}; name its study")
    return data


def measured(model: nn.Module, data: Batches) -> dict[str, float]:
    """Return accuracy in percent and loss on a study's evaluation images, as ``metrics.json`` has them."""
    top1, loss = evaluate(model, data)
    return {"top1": top1, "loss": loss}


@torch.no_grad()
def compared(one: nn.Module, other: nn.Module, data: Batches) -> tuple[list[float], int, int]:
    """Return the accuracy of two models in percent, of how many images their logits differ, and of how many there are.

    Logits that are not numbers differ from all others.
    """
    right, apart, count = [0, 0], 0, 0
    for batch in data.evaluation():
        logits = [model(batch.images) for model in (one, other)]  # (b, classes) each
        right = [n + int((each.argmax(1) == batch.labels).sum()) for n, each in zip(right, logits, strict=True)]
        apart += int((~((logits[0] - logits[1]).abs().amax(1) < SAME)).sum())
        count += len(batch.labels)
    return [100 * n / count for n in right], apart, count


def prepared(path: Path, images: Images) -> Tensor:
    """Read an image file as a model takes it, (channels, height, width).

    Raises:
        UserError: it is missing, or no image.
    """
    try:
        picture = decoded(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name image files") from None
    except OSError as error:
        raise refused(error, path, action="read") or error from None
    except UserError as error:
        raise UserError(f"{path} {error}; name image files") from None
    height, width = images.size
    if images.crop is not None:
        picture = middle(picture, height, images.crop)
    elif picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    found = pixels(picture) if images.channels == 3 else np.asarray(picture.convert("L"))[None]
    mean, std = (torch.tensor(value, dtype=torch.float32).view(-1, 1, 1) for value in (images.mean, images.std))
    return (torch.from_numpy(found.astype(np.float32)) / torch.tensor(255.0) - mean) / std


@torch.no_grad()
def predicted(model: nn.Module, about: About, paths: list[Path]) -> list[str]:
    """Return a line for each image file: its most probable classes with their probabilities.

    Raises:
        UserError: a file is missing or no image, or the model takes neither grey images nor red, green and blue.
    """
    if about.images.channels not in (1, 3):
        raise UserError(f"the model takes images of {about.images.channels} channels, and image files have 1 or 3")
    lines = []
    for path in paths:
        probabilities = model(prepared(path, about.images)[None]).softmax(-1)[0]  # (classes,)
        likely = probabilities.topk(min(LIKELY, about.classes))
        told = [
            f"{about.class_names[index] if about.class_names else index} {value:.4f}"
            for value, index in zip(likely.values.tolist(), likely.indices.tolist(), strict=True)
        ]
        lines.append(f"{path}: {', '.join(told)}")
    return lines
