"""Read everything again that a study's manifest records, and name each thing that differs."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, load_file

from ofq.config.params import Params
from ofq.config.settings import Data
from ofq.data.listing import Listing, examined, named
from ofq.data.manifest import Manifest, SourceFile, Stored, again, histogram, manifest_path, read_manifest, statistics
from ofq.data.reader import Images, Labels, Reader, reader_of
from ofq.errors import UserError
from ofq.runs.paths import data_dir


@dataclass(frozen=True)
class Finding:
    """One line of the report: a file that is good, one that is not on this machine, or a problem."""

    kind: Literal["ok", "absent", "bad"]
    text: str
    mend: str = ""


def verify(params: Params, study: str | None) -> None:
    """Verify the data of one study, or of every study that has data, and print a line for each file and each problem.

    Raises:
        UserError: a problem was found, or there is nothing to verify.
    """
    if study is not None:
        params.study_named(study)
    studies = [study] if study else [name for name in params.studies if any(data_dir(name).glob("*"))]
    if not studies:
        first = manifest_path(next(iter(params.studies)))
        raise UserError(f"no study has prepared data here; prepare a study's with: snakemake {first}")
    bad: list[Finding] = []
    for name in studies:
        for finding in findings(name, params.studies[name].data):
            print(f"{finding.kind:8}{finding.text}", flush=True)
            bad += [finding] if finding.kind == "bad" else []
    if bad:
        mend = "".join(dict.fromkeys(f"; {finding.mend}" for finding in bad if finding.mend))
        raise UserError(f"{len(bad)} problem{'s' if len(bad) > 1 else ''} in the data, each in a line above{mend}")


def findings(study: str, data: Data) -> Iterator[Finding]:
    """Yield what is good and what is bad in a study's data: manifest, images and labels, sources, in this order."""
    path = manifest_path(study)
    files = {split: path.parent / f"{split}.safetensors" for split in ("train", "eval")}
    try:
        manifest = read_manifest(study)
    except UserError as error:
        yield Finding("bad", str(error))
        for file in files.values():
            if not file.exists():
                yield Finding("bad", f"{file} does not exist", again(study))
        return
    good = f"{path}  {manifest.data}, {manifest.classes} classes, by {manifest.evaluate} images"
    yield from _report(study, good, path, manifest_problems(manifest, data))
    for split, stored in (("train", manifest.files.train), ("eval", manifest.files.eval)):
        good = f"{files[split]}  {stored.images} images, sha256 {stored.sha256[:12]}..."
        yield from _report(study, good, files[split], _stored_problems(files[split], split, stored, manifest))
    reader = reader_of(data)
    if manifest.folders is not None:
        yield from (_listed(study, reader.folder, file) for file in files.values())
        return
    for name, recorded in manifest.source.items():
        yield _source(reader, name, recorded)


def _report(study: str, good: str, path: Path, problems: Iterable[str]) -> Iterator[Finding]:
    bad = [Finding("bad", f"{path} {problem}", again(study)) for problem in problems]
    yield from bad or [Finding("ok", good)]


def manifest_problems(manifest: Manifest, data: Data) -> Iterator[str]:
    """Yield what a manifest has that its study's settings do not ask for, in words that go on after its path."""
    if (manifest.data, manifest.evaluate) != (data.name, data.evaluate):
        yield (
            f"is of {manifest.data}, evaluated on {manifest.evaluate} images; "
            f"params.yaml says {data.name}, {data.evaluate}"
        )
    if data.image_size is not None and manifest.image_size != (data.image_size,) * 2:
        yield f"is of images of {'x'.join(map(str, manifest.image_size))} pixels; params.yaml says {data.image_size}"
    if data.stream is not None and manifest.streamed != data.stream:
        yield f"is of {'streamed images' if manifest.streamed else 'images in memory'}; params.yaml says otherwise"
    if not manifest.source:
        yield "names no source"


def _stored_problems(path: Path, split: str, stored: Stored, manifest: Manifest) -> Iterator[str]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        yield "does not exist"
        return
    except OSError as error:
        yield f"cannot be read ({error.strerror})"
        return
    if len(content) != stored.bytes:
        yield f"has {len(content)} bytes, {stored.bytes} in the manifest"
    if (digest := hashlib.sha256(content).hexdigest()) != stored.sha256:
        yield f"has sha256 {digest[:12]}..., {stored.sha256[:12]}... in the manifest: its content was changed"
    try:
        arrays = load(content)
        labels = arrays["labels"]
        if manifest.streamed:  # as if there were images, in no memory
            arrays["images"] = np.broadcast_to(
                np.uint8(0), (*labels.shape[:1], manifest.channels, *manifest.image_size)
            )
        images = arrays["images"]
    except (SafetensorError, ValueError, KeyError) as error:
        yield f"holds no images and labels that can be read ({error})"
        return
    if images.dtype != np.uint8 or images.ndim != 4 or labels.dtype != np.int64 or labels.ndim != 1:
        yield f"holds {images.dtype} images {images.shape} and {labels.dtype} labels {labels.shape}"
        return
    yield from _content_problems(images, labels, split, stored, manifest)


def _content_problems(images: Images, labels: Labels, split: str, stored: Stored, manifest: Manifest) -> Iterator[str]:
    shape = (manifest.channels, *manifest.image_size)
    if images.shape[1:] != shape:
        yield f"holds images of {images.shape[1:]}, {shape} in the manifest"
    for what, count in (("images", len(images)), ("labels", len(labels))):
        if count != stored.images:
            yield f"holds {count} {what}, {stored.images} in the manifest"
    outside = (labels < 0) | (labels >= manifest.classes)
    if outside.any():
        yield f"holds {outside.sum()} labels out of range: {labels[outside][0]}, 0 to {manifest.classes - 1} allowed"
    counts = np.bincount(labels[~outside], minlength=manifest.classes).tolist()
    pairs = enumerate(zip_longest(counts, stored.images_by_class))
    if different := [f"{n} of class {label}, not {expected}" for label, (n, expected) in pairs if n != expected]:
        yield f"holds other numbers of images by class than the manifest says: {'; '.join(different)}"
    if split == "train" and images.size and images.shape[1] == manifest.channels and not manifest.streamed:
        mean, std = statistics(histogram(images))
        if (mean, std) != (manifest.mean, manifest.std):
            yield f"has pixels of mean {mean} and deviation {std}, {manifest.mean} and {manifest.std} in the manifest"


def _listed(study: str, root: Path, file: Path) -> Finding:
    """Read the image files again whose names and digests stand in a file of prepared images."""
    try:
        arrays = load_file(file)
        said = Listing(*(arrays[each.name] for each in fields(Listing)))
        names = [said.name(index) for index in range(len(said))]
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        return Finding("bad", f"{file} lists no image files ({error})", again(study))
    if not root.is_dir():
        return Finding("absent", f"{root}  {len(names)} image files of {file.stem}, not on this machine")
    found, wrong = examined(root, names, lambda index, content: None, noted=False)
    for index in np.flatnonzero((found.sha256 != said.sha256).any(axis=1)).tolist():
        wrong.setdefault(index, "is another file than was prepared")
    if wrong:
        return Finding(
            "bad",
            f"{root}: {len(wrong)} of the {len(names)} image files of {file.stem} are not those that were prepared: "
            f"{named(said, wrong)}; prepare the study again if the change was meant",
        )
    good = f"{root}  {len(names)} image files of {file.stem}, {said.sizes.sum()} bytes, sha256 of each as prepared"
    return Finding("ok", good)


def _source(reader: Reader, name: str, said: SourceFile) -> Finding:
    where = reader.place(name)
    try:
        current = reader.origin_here(name)
    except OSError as error:
        return Finding("bad", f"{where} cannot be read ({error.strerror})")
    if current is None and reader.folder.is_dir():
        return Finding("bad", f"{where} does not exist, and its folder does; download it again")
    if current is None:
        return Finding("absent", f"{where}  source, not on this machine, so not read again")
    if (current.sha256, current.bytes) == (said.sha256, said.bytes):
        remark = ", not the archive as published" if said.as_published is False else ""
        return Finding("ok", f"{where}  source, {said.bytes} bytes, sha256 {said.sha256[:12]}...{remark}")
    why = "; prepare the study again if the change was meant"
    try:
        reader.examine(name)
    except UserError as error:
        why = f" ({error})"
    return Finding(
        "bad",
        f"{where} is not the source that was prepared: {current.bytes} bytes, sha256 {current.sha256[:12]}...; "
        f"{said.bytes} bytes, sha256 {said.sha256[:12]}... in the manifest{why}",
    )
