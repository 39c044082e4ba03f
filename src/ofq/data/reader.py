"""What a reader of a data set is, and making the one that a study names."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ofq.config.settings import Data
from ofq.data.listing import Listing
from ofq.data.manifest import FromFolders, SourceFile
from ofq.data.packed import origin
from ofq.errors import UserError
from ofq.runs.paths import folder_named

Images = NDArray[np.uint8]  # (n, height, width), or (n, channels, height, width)
Labels = NDArray[np.int64]  # (n,)


@dataclass(frozen=True)
class Source:
    """A data set as its authors give it, split into training and test images.

    Attributes:
        train: training images and labels.
        test: test images and labels.
        classes: how many there are.
        terms: licence or origin, for people.
        origin: the files that were read, by their names in the data set's folder.
        folders: of images that are files in folders, what the manifest says of them. If they are streamed, the images
            of both splits have no channels: (n, 0, height, width).
        listed: those files, training and test images.
        normal: mean and deviation by channel to use in place of those of the training pixels.
    """

    train: tuple[Images, Labels]
    test: tuple[Images, Labels]
    classes: int
    terms: str
    origin: dict[str, SourceFile]
    folders: FromFolders | None = None
    listed: tuple[Listing, Listing] | None = None
    normal: tuple[list[float], list[float]] | None = None


@dataclass
class Reader(ABC):
    """Base class of the readers of data sets; a data set is one class with :meth:`read`.

    A class of the package is registered under a name, see :mod:`ofq.runs.registry`; one in a file beside
    ``params.yaml`` is named ``module:Class``.

    Args:
        folder: of the data set's files.
    """

    folder: Path

    @abstractmethod
    def read(self) -> Source:
        """Read the data set.

        Raises:
            UserError: a file is missing, damaged, or not what it should be; in one line.
        """

    def augmented(self, images: Images, labels: Labels) -> tuple[Images, Labels]:
        """Return what is trained on in place of the training images, the same each time; by default they themselves."""
        return images, labels

    def origins(self, *names: str) -> dict[str, SourceFile]:
        """Return what files of the folder are, by their names, for :class:`Source`."""
        return {name: origin(self.folder / name) for name in names}

    def place(self, name: str) -> str:
        """Return where a source is, for people."""
        return str(self.folder / name)

    def origin_here(self, name: str) -> SourceFile | None:
        """Return what a source is on this machine now, or None if it is not there."""
        path = self.folder / name
        return origin(path) if path.exists() else None

    def examine(self, name: str) -> None:
        """Read one source file, or the whole data set where no file can be read alone, which is the default.

        Raises:
            UserError: what is wrong with it.
        """
        self.read()


def reader_of(data: Data) -> Reader:
    """Make the reader of the data set that a study names.

    Raises:
        UserError: its module cannot be imported, the class is no reader or has no :meth:`Reader.read`, or the folder
            is in a home directory or under a variable that does not exist.
    """
    data.entry.load(Reader, "ofq.data.reader.Reader")
    options = data.model_dump(include={"image_size", "stream"}, exclude_none=True)
    try:
        reader: Reader = data.entry.make(folder_named(root_of(data)), **options)
    except TypeError as error:
        raise UserError(f"data set {data.name}: {error}; mend its class") from None
    return reader


def root_of(data: Data) -> str:
    """Return the folder of a data set's files as settings name it."""
    # own.shapes:Shapes is looked for in data/shapes.
    return data.root or f"data/{data.name.partition(':')[0].split('.')[-1]}"
