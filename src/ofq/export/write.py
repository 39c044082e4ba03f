"""Write a finished run in one of the formats."""

from collections.abc import Callable, Mapping
from pathlib import Path

from ofq.errors import UserError
from ofq.export.deploy import deployed
from ofq.export.load import Loaded, needing_onnx, open_model
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


def onnx(folder: Path, output: Path) -> Written:
    """Write the run in a folder as ONNX."""
    with needing_onnx():
        from ofq.export.onnx.write import write_onnx
    path = output / "model.onnx"
    model, about = deployed_run(folder)
    try:
        write_onnx(path, model, about)
    except ValueError as error:
        raise UserError(f"{folder} cannot be written as ONNX: {error}; --format packed can") from None
    return path, path.stat().st_size


FORMATS: Mapping[str, Callable[[Path, Path], Written]] = {"packed": packed, "onnx": onnx}
"""What writes a format, from a run's folder and the folder to write to."""
