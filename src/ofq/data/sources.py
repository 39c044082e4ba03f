"""Whether the files that a data set is read from are on this machine, told before anything is planned."""

import os
from pathlib import Path

from ofq.config.settings import Data
from ofq.data.readers.cifar import LAYOUTS
from ofq.data.readers.fashion_mnist import FASHION_MNIST
from ofq.errors import UserError

_FILES = {"fashion-mnist": list(FASHION_MNIST), **{name: [layout.archive] for name, layout in LAYOUTS.items()}}


def check_sources(study: str, data: Data) -> None:
    """Raise :class:`UserError` if a file that a study's images are made from is not there.

    What a reader beside ``params.yaml`` reads is not known without running it; if ``data.root`` names its folder, that
    must be there.
    """
    folder = Path(os.path.expanduser(data.root or f"data/{data.name}"))  # noqa: PTH111, an unknown home stays as it is
    own = [""] if ":" in data.name and data.root else []
    for path in [folder / name for name in _FILES.get(data.name, own)]:
        if not path.exists():
            raise UserError(
                f"study {study}: {path} not found; docs/add-a-data-set.md says where to get it; put it there, or set"
                f" studies.{study}.data.root"
            )
