"""What a study's images are like before any is looked at: how many, and of which size."""

import math
from dataclasses import dataclass, replace

from ofq.config.settings import Data
from ofq.data.manifest import manifest_path, read_manifest
from ofq.data.reader import reader_of
from ofq.data.sources import check_sources


@dataclass(frozen=True)
class Shape:
    """The extent of a study's images.

    Attributes:
        train: number of training images.
        evaluated: number of evaluation images.
        classes: number of classes.
        channels: of an image.
        size: height and width in pixels.
        streamed: whether they are read at every step, and not kept in memory.
    """

    train: int
    evaluated: int
    classes: int
    channels: int
    size: tuple[int, int]
    streamed: bool = False

    @property
    def pixels(self) -> int:
        """Numbers in one image."""
        return self.channels * math.prod(self.size)


# ILSVRC-2012, whose files take minutes to list.
_PUBLISHED = {"imagenet": Shape(1_281_167, 50_000, 1000, 3, (224, 224), streamed=True)}


def shape_of(study: str, data: Data) -> Shape:
    """Return the shape of a study's images: from their manifest or, before they are prepared, from their source.

    Raises:
        UserError: they are not prepared, and their source is not here or is damaged.
    """
    if manifest_path(study).exists():
        manifest = read_manifest(study)
        counts = manifest.files.train.images, manifest.files.eval.images
        return Shape(*counts, manifest.classes, manifest.channels, manifest.image_size, manifest.streamed)
    if data.name in _PUBLISHED and data.evaluate == "test":
        known = _PUBLISHED[data.name]
        return replace(known, size=(data.image_size, data.image_size)) if data.image_size else known
    check_sources(study, data)
    reader = reader_of(data)
    source = reader.read()
    (images, labels), evaluated = source.train, len(source.test[1])
    if data.evaluate == "validation":
        evaluated = math.ceil(len(labels) / 6)
        images, labels = images[evaluated:], labels[evaluated:]
    streamed = source.folders is not None and source.folders.streamed
    channels = 3 if streamed else images.shape[1] if images.ndim == 4 else 1
    count = len(reader.augmented(images, labels)[1])
    return Shape(count, evaluated, source.classes, channels, images.shape[-2:], streamed)
