"""Writing files so that each is whole or absent."""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from ofq.errors import UserError, missing, refused

UNFINISHED = ".tmp-"
"""How the name of a file begins that is being written."""
AGAIN = "delete it and run snakemake again"
"""How to mend a file that the pipeline made."""


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
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{UNFINISHED}{path.stem}-", suffix=path.suffix)
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
    for path in directory.glob(f"{UNFINISHED}*"):
        path.unlink(missing_ok=True)


def remove_empty(directory: Path) -> None:
    """Remove a directory and those below it as far as they hold nothing."""
    for path in (*sorted(directory.rglob("*"), reverse=True), directory):
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.rmdir()


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_bytes(path, text.encode())


def as_json(content: Any) -> str:
    """Return the text of a JSON file; numbers that JSON cannot hold (NaN, infinity) are an error."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file as :func:`as_json` says, whole or not at all."""
    write_text(path, as_json(content))


def read_json(path: Path, form: Any = Any, *, mend: str = AGAIN) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        form: the type that its content should have, for pydantic; nothing is converted.
        mend: what to do where it cannot be read.

    Raises:
        UserError: missing, damaged, or of another form.
    """
    with reading(path, mend=mend):
        content = json.loads(path.read_text(), parse_constant=_no_json)
        try:
            _checked_as(form).validate_python(content, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))) from None
        return content


@cache
def _checked_as(form: Any) -> TypeAdapter[Any]:
    return TypeAdapter(form)


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


@contextlib.contextmanager
def reading(path: Path, *, kind: str = "", mend: str = AGAIN) -> Iterator[None]:
    """Make what goes wrong in the body, which reads a file, an error of one line.

    Args:
        path: the file.
        kind: what it is read as, in words that go on "cannot be read".
        mend: what to do; empty for a file that the pipeline did not make.

    Raises:
        UserError: missing or damaged, or there is no permission.
    """
    try:
        yield
    except FileNotFoundError:
        raise missing(path) from None
    except (ValueError, OSError, RecursionError) as error:
        problem = refused(error, path, action="read") if mend and isinstance(error, OSError) else None
        raise problem or UserError(f"{path} cannot be read{kind} ({error}){f'; {mend}' if mend else ''}") from None


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
