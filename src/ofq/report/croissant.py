"""Croissant metadata of a study's prepared images, which data portals and loaders read."""

from typing import Any

from ofq.config.grid import Grid
from ofq.data.manifest import Manifest, Stored

# The JSON-LD context of Croissant 1.0, word for word as its specification has it.
_WORDS = (
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format"),
    *("includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
)
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    **{word: f"cr:{word}" for word in _WORDS},
}
_CIFAR = (
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
)
# Page and citation of the sets that are known by name.
_KNOWN = {
    "digits": (
        "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        "E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998",
    ),
    "fashion-mnist": (
        "https://github.com/zalandoresearch/fashion-mnist",
        "H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv:1708.07747, 2017",
    ),
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "imagenet": (
        "https://www.image-net.org",
        "O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 115, 2015",
    ),
}


def croissant(grid: Grid, manifest: Manifest, creator: str, version: str, made: str) -> dict[str, Any]:
    """Return Croissant 1.0 metadata of the images that a study's manifest lists.

    The two prepared files are its distribution, with their sha256; what they were made from stands under
    ``isBasedOn``. Two record sets hold what can be told without reading them: images of each split and class, and the
    splits with the normalisation of their pixels. Croissant knows no way into a safetensors file, so images are no
    records.

    Args:
        grid: of the study.
        manifest: of its data.
        creator: who prepared them.
        version: of the code that describes them.
        made: when they were prepared, in ISO 8601.
    """
    height, width = manifest.image_size
    names = manifest.folders.class_names if manifest.folders else list(map(str, range(manifest.classes)))
    splits = {"train": manifest.files.train, "eval": manifest.files.eval}
    told = [", ".join(map(str, values)) for values in (manifest.mean, manifest.std)]  # of pixels in [0, 1], by channel
    held = "images (n, channels, height, width) uint8 and labels (n,) in safetensors files"
    if manifest.streamed:
        held = "images stay files in folders, which two safetensors files list with labels, sizes and sha256"
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"{manifest.data}, as prepared for study {grid.study}",
        "description": (
            f"{grid.data.title}: {manifest.files.train.images:,} training images and {manifest.files.eval.images:,} "
            f"of the split '{manifest.evaluate}' for evaluation, {height}x{width} pixels, {manifest.channels} "
            f"channels, {manifest.classes} classes; {held}."
        ),
        "license": manifest.terms,
        "creator": {"@type": "sc:Organization", "name": creator},
        "datePublished": made,
        "version": version,
        **dict(zip(("url", "citeAs"), _KNOWN.get(manifest.data, ()), strict=False)),
        "isBasedOn": [
            {"@type": "sc:MediaObject", "name": name, "contentSize": f"{file.bytes} B", "sha256": file.sha256}
            for name, file in manifest.source.items()
        ],
        "distribution": [_file(file) for file in splits.values()],
        "recordSet": [
            _records(
                "splits",
                [
                    {"name": name, "file": file.name, "images": file.images, "mean": told[0], "std": told[1]}
                    for name, file in splits.items()
                ],
            ),
            _records(
                "classes",
                [
                    {"index": index, "name": name, **{of: file.images_by_class[index] for of, file in splits.items()}}
                    for index, name in enumerate(names)
                ],
            ),
        ],
    }


def _file(file: Stored) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file.name,
        "name": file.name,
        "contentUrl": file.name,
        "contentSize": f"{file.bytes} B",
        "encodingFormat": "application/octet-stream",
        "sha256": file.sha256,
    }


def _records(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a record set that holds its rows; the first column is its key."""
    types = {column: "sc:Integer" if isinstance(value, int) else "sc:Text" for column, value in rows[0].items()}
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "key": {"@id": f"{name}/{next(iter(types))}"},
        "field": [
            {"@type": "cr:Field", "@id": f"{name}/{column}", "name": column, "dataType": kind}
            for column, kind in types.items()
        ],
        "data": [{f"{name}/{column}": value for column, value in row.items()} for row in rows],
    }
