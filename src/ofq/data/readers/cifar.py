"""CIFAR-10 and CIFAR-100 from their binary archives: label bytes, then 32x32 RGB pixels channel by channel."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofq.data.packed import members, origin
from ofq.data.reader import Images, Labels, Reader, Source
from ofq.errors import UserError
from ofq.runs.registry import register

SIDE = 32
PIXELS = 3 * SIDE * SIDE


@dataclass(frozen=True)
class Layout:
    """The contents of a data set's archive; the last label byte of a record is the label that is used."""

    archive: str  # of binary records; another one has the same images as Python pickles
    md5: str  # of the binary archive, as its authors state it
    train: dict[str, int]  # member: number of records
    test: dict[str, int]
    label_bytes: int  # 1, or 2: coarse and fine
    classes: int


LAYOUTS = {
    "cifar10": Layout(
        archive="cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        train={f"cifar-10-batches-bin/data_batch_{i}.bin": 10_000 for i in range(1, 6)},
        test={"cifar-10-batches-bin/test_batch.bin": 10_000},
        label_bytes=1,
        classes=10,
    ),
    "cifar100": Layout(
        archive="cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        train={"cifar-100-binary/train.bin": 50_000},
        test={"cifar-100-binary/test.bin": 10_000},
        label_bytes=2,
        classes=100,
    ),
}


@register("cifar10", layout="cifar10")
@register("cifar100", layout="cifar100")
@dataclass
class Cifar(Reader):
    """CIFAR-10, or CIFAR-100 with its fine labels: 50,000 training and 10,000 test images, uint8 (n, 3, 32, 32).

    Args:
        folder: of the archive.
        layout: name under :data:`LAYOUTS`.
    """

    layout: str

    def read(self) -> Source:
        """Read the archive; ``terms`` say whether it is the published one.

        Raises:
            UserError: the archive is missing or damaged (:func:`ofq.data.packed.members`), only the archive of
                Python pickles is there, labels are out of range, or classes differ in size, which CIFAR's do not.
        """
        layout = LAYOUTS[self.layout]
        path = self.folder / layout.archive
        if not path.exists() and (pickled := self.folder / layout.archive.replace("binary", "python")).exists():
            raise UserError(
                f"{pickled} is refused: it holds Python pickles, which can run code when they are read; "
                f"put {layout.archive} there instead"
            )
        record = layout.label_bytes + PIXELS
        sizes = {name: count * record for name, count in (layout.train | layout.test).items()}
        content = members(path, sizes, f"put {layout.archive} there, or set data.root in params.yaml")
        train, test = (
            np.frombuffer(b"".join(content[name] for name in part), np.uint8).reshape(-1, record)
            for part in (layout.train, layout.test)
        )
        archive = origin(path, md5=layout.md5)
        cite = "cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
        other = f"; read from a {layout.archive} that is not the published one, so perhaps other images"
        return Source(
            _split(path, "training", train, layout),
            _split(path, "test", test, layout),
            classes=layout.classes,
            terms=f"CIFAR-{layout.classes}, no formal licence; {cite}{'' if archive.as_published else other}",
            origin={layout.archive: archive},
        )


def _split(path: Path, name: str, records: Images, layout: Layout) -> tuple[Images, Labels]:
    labels = records[:, layout.label_bytes - 1].astype(np.int64)
    if labels.max() >= layout.classes:
        raise UserError(
            f"{path}: a {name} image has label {labels.max()}, 0 to {layout.classes - 1} expected; download it again"
        )
    counts, expected = np.bincount(labels, minlength=layout.classes), len(labels) // layout.classes
    if (wrong := np.flatnonzero(counts != expected)).size:
        label = wrong[0]
        raise UserError(
            f"{path}: {counts[label]} {name} images have label {label}, {expected} expected; download it again"
        )
    return records[:, layout.label_bytes :].reshape(-1, 3, SIDE, SIDE), labels
