"""Find image files in folders, one folder a class, in an order that does not depend on the machine."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ofq.errors import UserError, first_of

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""How names of image files end, in letters of either case: the list of torchvision's ``ImageFolder``."""
EVALUATED = ("val", "validation", "test")
"""Names of the folder of evaluation images; the first that is there counts."""
IN_MEMORY = 2**29
"""Bytes of pixels up to which images are held in memory unless settings say otherwise: with what a training process
takes besides, that is within the memory that a job is reckoned with."""
_TRUTH, _SYNSETS = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_NAMED = 3  # of what is wrong, in a message


class Folders:
    """The image files below a root: ``train`` and one of :data:`EVALUATED`, each with a folder for every class.

    Classes are numbered in the order of their names' bytes, for both splits. Below a class's folder files may lie in
    further folders. What begins with a dot is left out, as are files whose name does not end as an image's does, and
    links to folders below a class.

    Args:
        root: of the data set.
        devkit: whether evaluation images may lie in one folder, their classes in the list of ImageNet's devkit.

    Raises:
        UserError: a folder is missing, or a class in one of the splits.
    """

    def __init__(self, root: Path, *, devkit: bool = False) -> None:
        self.root = root
        found = next((name for name in EVALUATED if (root / name).is_dir()), None)
        for path in (root, root / "train", *([] if found else [root / "val"])):
            if not path.is_dir():
                raise UserError(f"{path} not found; docs/add-a-data-set.md says what belongs there")
        assert found is not None
        self.evaluated = found
        self.classes = _classes(root / "train")
        others = _classes(root / found)
        self._flat = devkit and not others
        if not self.classes or not (others or self._flat):
            empty = root / (found if self.classes else "train")
            raise UserError(f"{empty} has no folders of classes; docs/add-a-data-set.md says what belongs there")
        lone = [(name, "train") for name in sorted({*self.classes} - {*others})]
        lone += [(name, found) for name in sorted({*others} - {*self.classes})]
        if lone and not self._flat:
            named = first_of([f"{name} in {split}" for name, split in lone], _NAMED)
            raise UserError(f"{root}: classes with a folder in one split only, {len(lone)} in all: {named}; add it")

    def large(self, size: int) -> bool:
        """Return whether images of so many pixels in height and width take more than :data:`IN_MEMORY`.

        No more names are looked at than are needed to tell.
        """
        names = (name for split in ("train", self.evaluated) for name in self.files(split))
        return next(islice(names, IN_MEMORY // (3 * size**2), None), None) is not None

    def files(self, split: str) -> Iterator[tuple[str, int]]:
        """Yield path and class of each image file of ``train`` or of the evaluated folder, in order.

        Raises:
            UserError: a class has no image, or the devkit's list does not fit.
        """
        if self._flat and split == self.evaluated:
            yield from self._listed()
            return
        empty = []
        for label, name in enumerate(self.classes):
            count = 0
            for path in _images(os.path.join(self.root, split, name)):  # noqa: PTH118, a million times
                yield path, label
                count += 1
            empty += [] if count else [name]
        if empty:
            raise UserError(
                f"{self.root / split}: folders of classes without images, {len(empty)} in all: "
                f"{first_of(empty, _NAMED)}; add images, or remove the class from both splits"
            )

    def _listed(self) -> Iterator[tuple[str, int]]:
        """Yield the files of a flat folder, in order of their names, with the classes of the devkit's list."""
        places = [self.root, self.root / "ILSVRC2012_devkit_t12/data"]
        folder = next((place for place in places if (place / _TRUTH).is_file() and (place / _SYNSETS).is_file()), None)
        if folder is None:
            raise UserError(
                f"{self.root / self.evaluated} has no folders of classes, and {_TRUTH} and {_SYNSETS} of the devkit "
                f"are neither in {places[0]} nor in {places[1]}; put them there"
            )
        paths = list(_images(str(self.root / self.evaluated)))
        try:
            synsets = _synsets(folder / _SYNSETS)
            names = [synsets[int(line)] for line in (folder / _TRUTH).read_text().split()]
        except Exception as error:  # SciPy has many types for what can be wrong with a file
            raise UserError(f"{folder}: the devkit cannot be read ({error}); unpack it again") from None
        if len(names) != len(paths):
            raise UserError(
                f"{folder / _TRUTH} has {len(names)} lines for the {len(paths)} images of {self.evaluated}; unpack both"
            )
        labels = {name: label for label, name in enumerate(self.classes)}
        if lone := sorted({*names} ^ {*labels}):
            raise UserError(
                f"{self.root}: classes in train or in the devkit's list only, {len(lone)} in all: "
                f"{first_of(lone, _NAMED)}; add what is missing"
            )
        yield from ((path, labels[name]) for path, name in zip(paths, names, strict=True))


def _classes(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(str(folder)) if entry.is_dir()]


def _images(folder: str) -> Iterator[str]:
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _images(entry.path)
        elif entry.name.lower().endswith(SUFFIXES):
            yield entry.path


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Return what a folder holds but for hidden entries, in the order of the names' bytes."""
    with os.scandir(folder) as found:
        return sorted(
            (each for each in found if not each.name.startswith(".")), key=lambda each: os.fsencode(each.name)
        )


def _synsets(path: Path) -> dict[int, str]:
    """Return ImageNet's names of classes (WNID) by the numbers of its list, which are not in the names' order."""
    from scipy.io import loadmat

    found = loadmat(path, squeeze_me=True)["synsets"]
    return {int(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in found if each["num_children"] == 0}
