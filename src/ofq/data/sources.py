"""Whether the files of a data set are on this machine, and are streamed: told before anything is planned."""

from ofq.config.settings import FROM_FOLDERS, Data
from ofq.data.folders import Folders
from ofq.data.manifest import read_manifest
from ofq.data.reader import root_of
from ofq.data.readers.cifar import LAYOUTS
from ofq.data.readers.fashion_mnist import FASHION_MNIST
from ofq.errors import UserError
from ofq.runs.paths import folder_named

_FILES = {"fashion-mnist": list(FASHION_MNIST), **{name: [layout.archive] for name, layout in LAYOUTS.items()}}


def check_sources(study: str, data: Data) -> None:
    """Raise :class:`UserError` if a file that a study's images are made from is not there.

    What a reader beside ``params.yaml`` reads is not known without running it; if ``data.root`` names its folder, that
    must be there.
    """
    folder = folder_named(root_of(data))
    if data.name in FROM_FOLDERS:
        _folders(study, data)
        return
    own = [""] if ":" in data.name and data.root else []
    for path in [folder / name for name in _FILES.get(data.name, own)]:
        if not path.exists():
            raise UserError(
                f"study {study}: {path} not found; docs/add-a-data-set.md says where to get it; put it there, or set"
                f" studies.{study}.data.root"
            )


def is_streamed(study: str, data: Data) -> bool:
    """Return whether a study's images are streamed: as settings say, as they were prepared, or as they will be.

    Raises:
        UserError: nothing says so, and their folders are not there.
    """
    if data.name == "imagenet":
        return True
    if data.stream is not None or data.image_size is None:  # or no data set of folders
        return bool(data.stream)
    try:
        return read_manifest(study).streamed
    except UserError:  # not prepared yet
        return _folders(study, data).large(data.image_size)


def _folders(study: str, data: Data) -> Folders:
    try:
        return Folders(folder_named(root_of(data)), devkit=data.name == "imagenet")
    except UserError as error:
        raise UserError(f"study {study}: {error}, or set studies.{study}.data.root") from None
