"""Make the verified data of a study: training and evaluation images, and their manifest."""

import datetime

import numpy as np
from safetensors.numpy import save

from ofq.config.settings import Data
from ofq.data.manifest import Files, Manifest, Stored, statistics, write_manifest
from ofq.data.reader import Images, Labels, Source, reader_of
from ofq.errors import UserError
from ofq.runs.code_digest import code_digest
from ofq.runs.files import write_bytes, write_json
from ofq.runs.paths import data_dir, data_info
from ofq.runs.provenance import file_digest, machine, versions


def prepare(study: str, data: Data) -> None:
    """Write ``train.safetensors``, ``eval.safetensors`` and ``manifest.json`` into the study's data directory.

    Images are uint8 (n, channels, height, width), labels int64 (n,). The manifest holds sha256 and size of each
    file and of its sources, counts by class, and mean and standard deviation of the training pixels in [0, 1], by
    channel. ``prepared.json`` says what made them: versions, machine, digest of the code. The evaluation images are the
    test images, or a held-out sixth of the training images (``evaluate: validation``).

    Raises:
        UserError: the source is missing or damaged, its images and labels do not fit together, or its images are blank.
    """
    reader = reader_of(data)
    source = reader.read()
    check(data.name, source)
    train, evaluation = source.train, source.test
    if data.evaluate == "validation":
        train, evaluation = _hold_out(*source.train)
    splits = {"train": _with_channels(*reader.augmented(*train)), "eval": _with_channels(*evaluation)}
    images = splits["train"][0]
    mean, std = statistics(images)
    if not all(std):
        raise UserError(f"the training images of {data.name} are blank: all pixels of a channel are alike")
    if not source.origin:
        raise UserError(f"read() of data set {data.name} gives no origin; self.origins(FILE) gives that of a file")
    stored = {split: store(study, split, *content, classes=source.classes) for split, content in splits.items()}
    manifest = Manifest(
        data=data.name,
        terms=source.terms,
        evaluate=data.evaluate,
        classes=source.classes,
        image_size=images.shape[2:],
        channels=images.shape[1],
        mean=mean,
        std=std,
        files=Files(**stored),
        source=source.origin,
    )
    write_manifest(study, manifest)
    write_json(
        data_info(study),
        {
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions(),
            "digests": {"code": code_digest(__name__, data.entry.module)},
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
    for split, (images, labels) in {"training": source.train, "test": source.test}.items():
        what = f"the {split} images of {name}"
        grey_or_colour = images.ndim == 3 or (images.ndim == 4 and images.shape[1] in (1, 3))
        if images.dtype != np.uint8 or not grey_or_colour:
            expected = "uint8 (n, height, width) or (n, 1 or 3, height, width)"
            raise UserError(f"{what} are {images.dtype} {images.shape}; {expected} expected")
        if labels.shape != (len(images),) or not len(images):
            raise UserError(
                f"{what} are {len(images)}, with labels of shape {labels.shape}; one label for each image expected"
            )
        if labels.dtype != np.int64 or labels.min() < 0 or labels.max() >= source.classes:
            raise UserError(
                f"{what} have {labels.dtype} labels from {labels.min()} to {labels.max()}; "
                f"int64 from 0 to {source.classes - 1} expected"
            )
    if source.train[0].shape[1:] != source.test[0].shape[1:]:
        raise UserError(f"training and test images of {name} differ in size")


def _with_channels(images: Images, labels: Labels) -> tuple[Images, Labels]:
    """Return the images as (n, channels, height, width), and the labels as they are."""
    return np.ascontiguousarray(images if images.ndim == 4 else images[:, None]), labels


def store(study: str, split: str, images: Images, labels: Labels, *, classes: int) -> Stored:
    """Write one file of prepared images: uint8 (n, channels, height, width) and labels int64 (n,)."""
    path = data_dir(study) / f"{split}.safetensors"
    write_bytes(path, save({"images": images, "labels": labels}))
    return Stored(
        name=path.name,
        sha256=file_digest(path),
        bytes=path.stat().st_size,
        images=len(labels),
        images_by_class=np.bincount(labels, minlength=classes).tolist(),
    )


def _hold_out(images: Images, labels: Labels) -> tuple[tuple[Images, Labels], tuple[Images, Labels]]:
    """Split off a stratified sixth for validation."""
    from sklearn.model_selection import train_test_split

    kept, held = train_test_split(np.arange(len(labels)), test_size=1 / 6, stratify=labels, random_state=1)
    return (images[kept], labels[kept]), (images[held], labels[held])
