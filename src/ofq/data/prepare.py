"""Make the verified data of a study: training and evaluation images, and their manifest."""

import datetime
import hashlib
import logging
import math
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import save

from ofq.config.settings import Data
from ofq.data.listing import Listing
from ofq.data.manifest import Files, Manifest, Stored, histogram, statistics, write_manifest
from ofq.data.reader import Images, Labels, Source, reader_of, root_of
from ofq.errors import UserError
from ofq.runs.code_digest import code_digest
from ofq.runs.files import write_bytes, write_json
from ofq.runs.paths import data_dir, data_info
from ofq.runs.provenance import machine, versions

_log = logging.getLogger(__name__)


def prepare(study: str, data: Data) -> None:
    """Write ``train.safetensors``, ``eval.safetensors`` and ``manifest.json`` into the study's data directory.

    Images are uint8 (n, channels, height, width), labels int64 (n,). The manifest holds sha256 and size of each
    file and of its sources, counts by class, and mean and standard deviation of the training pixels in [0, 1], by
    channel. ``prepared.json`` says what made them: versions, machine, digest of the code. The evaluation images are the
    test images, or a held-out sixth of the training images (``evaluate: validation``); of either split there may be a
    part. Of images that are files in folders the files hold the names, sizes and digests as well, and of streamed ones
    no pixels; ``prepared.json`` then says in which folder they are.

    Raises:
        UserError: the source is missing or damaged or has fewer images than asked for, its images and labels do not fit
            together, or its images are blank.
    """
    reader = reader_of(data)
    source = reader.read()
    check(data.name, source)
    train, evaluation, listed = source.train, source.test, source.listed
    if data.evaluate == "validation":
        parts = _hold_out(data.name, source.train[1], classes=source.classes)
        train, evaluation = ((source.train[0][part], source.train[1][part]) for part in parts)
        listed = listed and (listed[0].taken(parts[0]), listed[0].taken(parts[1]))
    if data.train_images or data.evaluation_images:
        parts = (
            _spread("train_images", data.train_images, len(train[1])),
            _spread("evaluation_images", data.evaluation_images, len(evaluation[1])),
        )
        pairs = zip((train, evaluation), parts, strict=True)
        train, evaluation = ((images[part], labels[part]) for (images, labels), part in pairs)
        listed = listed and (listed[0].taken(parts[0]), listed[1].taken(parts[1]))
    more = reader.augmented(*train)
    _check_images(f"the training images of {data.name}, augmented,", more, source)
    splits = {"train": _with_channels(*more), "eval": _with_channels(*evaluation)}
    images = splits["train"][0]
    if images.shape[1:] != splits["eval"][0].shape[1:]:
        raise UserError(f"training images of {data.name}, augmented, and evaluation images differ in size")
    mean, std = source.normal or statistics(histogram(images))
    if not all(std):
        raise UserError(f"the training images of {data.name} are blank: all pixels of a channel are alike")
    if not source.origin:
        raise UserError(f"read() of data set {data.name} gives no origin; self.origins(FILE) gives that of a file")
    packed = {
        split: _packed(split, *content, classes=source.classes, listed=files)
        for (split, content), files in zip(splits.items(), listed or (None, None), strict=True)
    }
    try:
        manifest = Manifest(
            data=data.name,
            terms=source.terms,
            evaluate=data.evaluate,
            classes=source.classes,
            image_size=images.shape[2:],
            channels=images.shape[1] or 3,
            mean=mean,
            std=std,
            files=Files(**{split: stored for split, (stored, _) in packed.items()}),
            source=source.origin,
            folders=source.folders,
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"read() of data set {data.name} gives a Source with a wrong {place}: {first['msg']}") from None
    for name, file in source.origin.items():
        if file.as_published is False and data.called is None:
            _log.warning(
                "%s: %s is not the archive as published; name it in studies.%s.data.called, or tables call it %s",
                *(study, reader.place(name), study, data.title),
            )
    for stored, content in packed.values():
        write_bytes(data_dir(study) / stored.name, content)
    write_manifest(study, manifest)
    write_json(
        data_info(study),
        {
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions(),
            "digests": {"code": code_digest(__name__, data.entry.module)},
            **({"root": root_of(data)} if source.folders else {}),
        },
    )


def check(name: str, source: Source) -> None:
    """Check the images and labels that a reader returned.

    Raises:
        UserError: it returned no :class:`Source`, images are not uint8 of one size with 1 or 3 channels, there are not
            as many labels as images, or labels are out of range.
    """
    if not isinstance(source, Source):
        raise UserError(f"read() of data set {name} returned a {type(source).__name__}; it should be a Source")
    if not isinstance(source.classes, Integral) or source.classes < 1:
        raise UserError(f"read() of data set {name} gives {source.classes!r} classes; a whole number above 0 expected")
    for split, pair in {"training": source.train, "test": source.test}.items():
        _check_images(f"the {split} images of {name}", pair, source)
    if source.train[0].shape[1:] != source.test[0].shape[1:]:
        raise UserError(f"training and test images of {name} differ in size")


def _check_images(what: str, pair: Any, source: Source) -> None:
    """Check that something is a pair of images and labels; ``what`` names it in errors."""
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(each, np.ndarray) for each in pair)):
        found = [type(each).__name__ for each in pair] if isinstance(pair, tuple | list) else type(pair).__name__
        raise UserError(f"{what} are {found}; a pair of NumPy arrays, images and labels, expected")
    images, labels = pair
    channels = [0] if source.folders and source.folders.streamed else [1, 3]
    grey_or_colour = (images.ndim == 3 and 1 in channels) or (images.ndim == 4 and images.shape[1] in channels)
    if images.dtype != np.uint8 or not grey_or_colour or 0 in images.shape[-2:]:
        expected = "uint8 (n, height, width) or (n, 1 or 3, height, width)"
        raise UserError(f"{what} are {images.dtype} {images.shape}; {expected} expected")
    if labels.shape != (len(images),) or not len(images):
        raise UserError(
            f"{what} are {len(images)}, with labels of shape {labels.shape}; one label for each image expected"
        )
    if labels.dtype != np.int64 or labels.min() < 0 or labels.max() >= source.classes:
        raise UserError(
            f"{what} have {labels.dtype} labels from {labels.min()} to {labels.max()}; int64 from 0 to "
            f"{source.classes - 1} expected"
        )


def _with_channels(images: Images, labels: Labels) -> tuple[Images, Labels]:
    """Return the images as (n, channels, height, width), and the labels as they are."""
    return np.ascontiguousarray(images if images.ndim == 4 else images[:, None]), labels


def store(study: str, split: str, images: Images, labels: Labels, *, classes: int) -> Stored:
    """Write one file of prepared images: uint8 (n, channels, height, width) and labels int64 (n,)."""
    stored, content = _packed(split, images, labels, classes=classes)
    write_bytes(data_dir(study) / stored.name, content)
    return stored


def _packed(
    split: str, images: Images, labels: Labels, *, classes: int, listed: Listing | None = None
) -> tuple[Stored, bytes]:
    """Return the content of a file of prepared images, and what the manifest says of it."""
    arrays: dict[str, NDArray[Any]] = {"images": images, "labels": labels} if images.size else {"labels": labels}
    content = save(arrays | (listed.arrays() if listed else {}))
    stored = Stored(
        name=f"{split}.safetensors",
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        images=len(labels),
        images_by_class=np.bincount(labels, minlength=classes).tolist(),
    )
    return stored, content


def _spread(asked: str, count: int | None, there: int) -> Labels:
    """Return the positions of so many images, evenly spread over a split, which may be sorted by class.

    Raises:
        UserError: there are fewer.
    """
    if count and count > there:
        raise UserError(
            f"data.{asked} {count} is more than the {there} images that there are; lower it, or leave it out"
        )
    return np.arange(count or there) * there // (count or there)


def _hold_out(name: str, labels: Labels, *, classes: int) -> tuple[Labels, Labels]:
    """Return the positions of the images that stay, and of a stratified sixth that is held out for validation.

    Raises:
        UserError: not every class that has images can have one on either side.
    """
    from sklearn.model_selection import train_test_split

    counts, held_out = np.bincount(labels, minlength=classes), math.ceil(len(labels) / 6)
    mend = "add images, or evaluate the test images (evaluate: test)"
    if (single := np.flatnonzero(counts == 1)).size:
        raise UserError(
            f"class {single[0]} of {name} has one training image, and evaluate: validation holds out some of each "
            f"class; {mend}"
        )
    if held_out < (present := np.count_nonzero(counts)):
        raise UserError(
            f"evaluate: validation holds out {held_out} of the {len(labels)} training images of {name}, too few for "
            f"its {present} classes; {mend}"
        )
    kept, held = train_test_split(np.arange(len(labels)), test_size=1 / 6, stratify=labels, random_state=1)
    return kept, held
