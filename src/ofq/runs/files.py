"""Writing files so that each is whole or absent."""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ofq.errors import UserError, missing, refused

_UNFINISHED = ".tmp-"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same directory; what is written there becomes ``path`` at the end.

    The file is flushed to the disk before the rename and the directory after it, so that a crash leaves the old file or
    the new one. If the body fails, the temporary file is removed and the old one stays; :func:`remove_unfinished`
    removes what a killed process left.

    Raises:
        UserError: no space, no permission to write, or something else stands in the way.
    """
    temporary: Path | None = None
    try:
        make_directory(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{_UNFINISHED}{path.stem}-", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except UserError:
        raise
    except Exception as error:
        if problem := refused(_system_error(error), path, action="write"):
            raise UserError(f"{problem}; what was there before is kept") from None
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    """Make a directory and its parents, so that they survive a power failure."""
    new = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for directory in reversed(new):
        sync_directory(directory.parent)


def remove_unfinished(directory: Path) -> None:
    """Remove the temporary files that a killed process left in a directory; no other process may be writing there."""
    for path in directory.glob(f"{_UNFINISHED}*"):
        path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all; numbers that JSON cannot hold (NaN, infinity) are an error."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: missing or damaged.
    """
    with reading(path):
        return json.loads(path.read_text())


@contextlib.contextmanager
def reading(path: Path, *, kind: str = "", ours: bool = True) -> Iterator[None]:
    """Make what goes wrong in the body, which reads a file, an error of one line.

    Args:
        path: the file.
        kind: what it is read as, in words that go on "cannot be read".
        ours: whether the pipeline made it, and makes it again where it is deleted.

    Raises:
        UserError: missing or damaged, or there is no permission.
    """
    try:
        yield
    except FileNotFoundError:
        raise missing(path) from None
    except (ValueError, OSError, RecursionError) as error:
        problem = refused(error, path, action="read") if ours and isinstance(error, OSError) else None
        again = "; delete it and run snakemake again" if ours else ""
        raise problem or UserError(f"{path} cannot be read{kind} ({error}){again}") from None


def _system_error(error: Exception) -> OSError:
    """Return the operating system's error behind a library's; safetensors, written in Rust, has it in the text."""
    if isinstance(error, OSError):
        return error
    match = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(match[1]), "") if match else OSError()


def sync_directory(directory: Path) -> None:
    """Flush a directory to the disk, so that renames and new files in it survive a power failure."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
