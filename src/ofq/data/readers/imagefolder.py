"""Image files in folders, one folder a class: a data set of one's own, or ImageNet."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ofq.data.folders import Folders
from ofq.data.listing import Listing, examined, named
from ofq.data.manifest import FromFolders, SourceFile, histogram, statistics
from ofq.data.pictures import check_whole, decoded, middle, pixels
from ofq.data.reader import Images, Labels, Reader, Source
from ofq.errors import UserError
from ofq.runs.registry import register

SAMPLE = 10_000  # training images of which mean and deviation are taken where they are streamed
_IMAGENET = (
    [0.485, 0.456, 0.406],
    [0.229, 0.224, 0.225],
)  # mean and deviation that weights of ImageNet were trained with


@register("imagefolder", crop=1.0)
@register("imagenet", crop=0.9, image_size=224, stream=True, imagenet=True)
@dataclass
class ImageFolder(Reader):
    """Images in ``train/CLASS`` and ``val/CLASS`` of a folder (:class:`ofq.data.folders.Folders`).

    Images are held in memory, or streamed: then every file is read once here, to be sure that it is an image, and again
    at every step that trains on it.

    Args:
        folder: of the data set.
        crop: share of the shorter side that is kept of an image in full.
        image_size: height and width of the images that a model gets.
        stream: whether they are streamed; None: as :meth:`ofq.data.folders.Folders.large` says.
        imagenet: whether mean and deviation are ImageNet's, and evaluation images may lie in one folder.
    """

    crop: float
    image_size: int
    stream: bool | None = None
    imagenet: bool = False

    def read(self) -> Source:
        """Read every file.

        Raises:
            UserError: folders or images are missing, or files are no images; says how many, and names the first.
        """
        folders = Folders(self.folder, devkit=self.imagenet)
        streamed = folders.large(self.image_size) if self.stream is None else self.stream
        splits = ("train", folders.evaluated)
        (train, listed), (test, also_listed) = (self._split(folders, split, streamed) for split in splits)
        normal = None
        if streamed:
            normal = _IMAGENET if self.imagenet else self._sampled(listed)
        names = [os.fsencode(name).decode(errors="backslashreplace") for name in folders.classes]
        return Source(
            train,
            test,
            classes=len(names),
            terms="ImageNet, for research and education only" if self.imagenet else "image files of your own",
            origin={split: _digest(each) for split, each in zip(splits, (listed, also_listed), strict=True)},
            folders=FromFolders(class_names=names, crop=self.crop, streamed=streamed),
            listed=(listed, also_listed),
            normal=normal,
        )

    def _split(self, folders: Folders, split: str, streamed: bool) -> tuple[tuple[Images, Labels], Listing]:
        start = len(os.fsencode(self.folder / "_")) - 1
        found = [(os.fsencode(path)[start:], label) for path, label in folders.files(split)]
        names, labels = [name for name, _ in found], np.array([label for _, label in found], np.int64)
        images = np.zeros((len(names), 0 if streamed else 3, self.image_size, self.image_size), np.uint8)

        def look(index: int, content: bytes) -> None:
            if streamed:
                check_whole(content)
            else:
                images[index] = self._full(content)

        return (images, labels), self._examined(split, names, look, noted=streamed)

    def _examined(
        self, what: str, names: Sequence[bytes], look: Callable[[int, bytes], Any], *, noted: bool
    ) -> Listing:
        """Look at files, and refuse them if one cannot be used; names three."""
        listed, wrong = examined(self.folder, names, look, noted=noted)
        if wrong:
            raise UserError(
                f"{self.folder}: {len(wrong)} of the {len(names)} images of {what} cannot be used: "
                f"{named(listed, wrong)}; mend or remove them, and run the same again"
            )
        return listed

    def _full(self, content: bytes) -> Images:
        """Return the pixels of an image in full (3, size, size)."""
        return pixels(middle(decoded(content), self.image_size, self.crop))

    def _sampled(self, listed: Listing) -> tuple[list[float], list[float]]:
        """Return mean and deviation of the pixels of images that lie evenly among those of training."""
        count = min(len(listed), SAMPLE)
        chosen = [listed.name(each * len(listed) // count) for each in range(count)]
        counts = [np.zeros((3, 256), np.int64) for _ in chosen]

        def look(index: int, content: bytes) -> Any:
            counts[index] = histogram(self._full(content)[None])

        self._examined("training", chosen, look, noted=False)
        return statistics(np.sum(counts, axis=0))


def _digest(listed: Listing) -> SourceFile:
    """Return a digest of names and contents of files, and their size together."""
    digest = hashlib.sha256(listed.names.tobytes() + listed.ends.tobytes() + listed.sha256.tobytes())
    return SourceFile(sha256=digest.hexdigest(), bytes=int(listed.sizes.sum()))
