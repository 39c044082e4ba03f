"""Make the verified data of a study: training and evaluation images, and a manifest that vouches for them."""

import numpy as np
from safetensors.numpy import save_file

from ofq.data.source import Images, Labels, read
from ofq.files import replacing, write_json
from ofq.params import Data
from ofq.paths import data_dir
from ofq.provenance import file_digest

AFFINE_COPIES = 10  # of each training image of digits: with the 1,200 originals alone a teacher overfits
_AFFINE_SEED = 0


def prepare(study: str, data: Data) -> None:
    """Write ``train.safetensors``, ``eval.safetensors`` and ``manifest.json`` into the study's data directory.

    Images are uint8 (n, 1, height, width), labels int64 (n,). The manifest holds sha256 and size of each
    file, counts by class, and mean and standard deviation of the training pixels in [0, 1].
    The evaluation images are the test images, or a held-out sixth of the training images
    (``evaluate: validation``).
    """
    source = read(data)
    train, evaluation = source.train, source.test
    if data.evaluate == "validation":
        train, evaluation = _hold_out(*source.train)
    if data.name == "digits":
        train = _with_affine_copies(*train)
    pixels = train[0].astype(np.float64) / 255
    manifest = {
        "data": data.name,
        "terms": source.terms,
        "evaluate": data.evaluate,
        "classes": source.classes,
        "image_size": train[0].shape[1:],
        "channels": 1,
        "mean": [float(pixels.mean())],
        "std": [float(pixels.std())],
        "files": {},
    }
    directory = data_dir(study)
    for split, (images, labels) in {"train": train, "eval": evaluation}.items():
        path = directory / f"{split}.safetensors"
        with replacing(path) as temporary:
            save_file({"images": np.ascontiguousarray(images[:, None]), "labels": labels}, temporary)
        manifest["files"][split] = {  # type: ignore[index]
            "name": path.name,
            "sha256": file_digest(path),
            "bytes": path.stat().st_size,
            "images": len(labels),
            "images_by_class": np.bincount(labels, minlength=source.classes).tolist(),
        }
    write_json(directory / "manifest.json", manifest)


def _hold_out(images: Images, labels: Labels) -> tuple[tuple[Images, Labels], tuple[Images, Labels]]:
    """Split off a stratified sixth for validation."""
    from sklearn.model_selection import train_test_split

    kept, held = train_test_split(np.arange(len(labels)), test_size=1 / 6, stratify=labels, random_state=1)
    return (images[kept], labels[kept]), (images[held], labels[held])


def _with_affine_copies(images: Images, labels: Labels) -> tuple[Images, Labels]:
    """Append copies of each image, rotated by up to 0.2 rad, scaled by up to 12 %, shifted by up to 0.8 pixels.

    They are made once, before training: a shift by one pixel, the usual augmentation, moves an 8x8 digit by an eighth.
    """
    from scipy.ndimage import affine_transform

    rng = np.random.default_rng(_AFFINE_SEED)
    centre = (np.array(images.shape[1:]) - 1) / 2
    copies = [images]
    for _ in range(AFFINE_COPIES):
        copy = np.empty_like(images)
        for i, image in enumerate(images):
            angle, scale, shift = rng.uniform(-0.2, 0.2), rng.uniform(0.88, 1.12), rng.uniform(-0.8, 0.8, size=2)
            rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
            moved = affine_transform(image.astype(np.float64), rotation, centre - rotation @ (centre + shift), order=1)
            copy[i] = np.clip(np.round(moved), 0, 255).astype(np.uint8)
        copies.append(copy)
    return np.concatenate(copies), np.tile(labels, AFFINE_COPIES + 1)
