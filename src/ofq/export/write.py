"""Write a finished run in one of the formats."""

from collections.abc import Callable, Mapping
from pathlib import Path

from ofq.errors import UserError
from ofq.export.deploy import deployed
from ofq.export.load import Loaded, open_model
from ofq.export.packed import write_packed

Written = tuple[Path, int]
"""What was written, and its size in bytes."""


def deployed_run(folder: Path) -> Loaded:
    """Load a finished student and deploy it.

    Raises:
        UserError: it is not finished, or cannot be deployed.
    """
    loaded = open_model(folder)
    try:
        deployed(loaded.model)
    except ValueError as error:
        raise UserError(f"{folder} cannot be exported: {error}") from None
    return loaded


def packed(folder: Path, output: Path) -> Written:
    """Write the packed file of the run in a folder."""
    path = output / "packed.safetensors"
    model, about = deployed_run(folder)
    write_packed(path, model, about)
    return path, path.stat().st_size


FORMATS: Mapping[str, Callable[[Path, Path], Written]] = {"packed": packed}
"""What writes a format, from a run's folder and the folder to write to."""
