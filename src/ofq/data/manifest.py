"""The manifest of a study's prepared images: its types, writing it, and reading it with every check."""

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.types import FiniteFloat, NonNegativeInt, PositiveInt

from ofq.errors import UserError, missing
from ofq.runs.files import write_json
from ofq.runs.paths import RESULTS, data_dir

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Plain names only: a manifest from elsewhere must not point outside its folder.
StoredName = Annotated[str, Field(pattern=r"^[a-z]+\.safetensors$")]


def _inside(name: str) -> str:
    if not name.isprintable() or {"", ".", ".."}.intersection(name.split("/")):
        raise ValueError("Input should be the name of a file inside the data set's folder")
    return name


SourceName = Annotated[str, AfterValidator(_inside)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stored(_Record):
    """One file of prepared images."""

    name: StoredName
    sha256: Digest
    bytes: NonNegativeInt
    images: PositiveInt
    images_by_class: list[NonNegativeInt]


class SourceFile(_Record):
    """What the images were read from: sha256 and size of a source file, or of a library's arrays.

    ``as_published`` says whether an archive is, byte for byte, the one that the authors publish. It is None if contents
    are compared instead, and any other content is refused.
    """

    sha256: Digest
    bytes: NonNegativeInt
    as_published: bool | None = None


class Files(_Record):
    """The two files of a study."""

    train: Stored
    eval: Stored


class FromFolders(_Record):
    """What is known of images that are files in folders; the files themselves are listed beside the labels.

    ``crop`` is the share of the shorter side that is kept of an image in full. ``streamed``: files are read at every
    step, and no pixels are prepared; mean and deviation are then those of a sample, or ImageNet's.
    """

    class_names: list[str]
    crop: Annotated[float, Field(gt=0, le=1)]
    streamed: bool


class Manifest(_Record):
    """The contents of ``manifest.json``; mean and deviation are of the training pixels in [0, 1], by channel."""

    data: str
    terms: str
    evaluate: str
    classes: PositiveInt
    image_size: tuple[PositiveInt, PositiveInt]
    channels: PositiveInt
    mean: list[FiniteFloat]
    std: list[Annotated[FiniteFloat, Field(gt=0)]]
    files: Files
    source: dict[SourceName, SourceFile]
    folders: FromFolders | None = None

    @property
    def streamed(self) -> bool:
        """Whether images are read from their files at every step."""
        return self.folders is not None and self.folders.streamed

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations for {self.channels} channels")
        return self


def histogram(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how many pixels have each value (channels, 256), of images uint8 (n, channels, height, width)."""
    counts = [np.bincount(images[:, channel].ravel(), minlength=256) for channel in range(images.shape[1])]
    return np.stack(counts)


def statistics(counts: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of pixels in [0, 1], by channel.

    They come from exact sums of integers, so they are the same on every machine and comparable to the last bit.

    Args:
        counts: how many pixels have each value (channels, 256).
    """
    mean, std = [], []
    for channel in counts.tolist():
        pixels = sum(channel)
        total = sum(count * value for value, count in enumerate(channel))
        squares = sum(count * value**2 for value, count in enumerate(channel))
        mean.append(total / (255 * pixels))
        std.append(math.sqrt(pixels * squares - total**2) / (255 * pixels))
    return mean, std


def manifest_path(study: str) -> Path:
    """Return the path of a study's manifest."""
    return data_dir(study) / "manifest.json"


def again(study: str) -> str:
    """Return the end of an error message that says how to make a study's data again."""
    return f"delete {data_dir(study)} and make it again with: snakemake {manifest_path(study)}"


def write_manifest(study: str, manifest: Manifest) -> None:
    """Write the manifest with a digest of its content."""
    content = manifest.model_dump(mode="json", exclude_none=True)
    write_json(manifest_path(study), content | {"sha256": _digest(content)})


def read_manifest(study: str, folder: Path = RESULTS) -> Manifest:
    """Read the manifest of a study.

    Args:
        study: its name.
        folder: the results that hold it.

    Raises:
        UserError: it is missing, is not JSON, lacks a key, holds a value out of range, or was changed by even one byte
            since it was written; in one line.
    """
    path = folder / manifest_path(study).relative_to(RESULTS)
    try:
        text = path.read_bytes().decode()
        content = json.loads(text)
        recorded = content.pop("sha256", None) if isinstance(content, dict) else None
        manifest = Manifest.model_validate(content)
    except FileNotFoundError:
        raise missing(path) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is damaged ({place + ': ' if place else ''}{first['msg']}); {again(study)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); {again(study)}") from None
    # The text is compared too: a changed digit beyond the precision of float64 would not change the content.
    if recorded != _digest(content) or text != json.dumps(content | {"sha256": recorded}, indent=2) + "\n":
        raise UserError(f"{path} was changed since it was written (sha256); {again(study)}")
    return manifest


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, indent=2).encode()).hexdigest()
