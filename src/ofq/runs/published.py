"""What a run has published: reading it in the form that it should have, and whether it was changed since."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired

from pydantic import FiniteFloat
from typing_extensions import TypedDict

from ofq.errors import UserError
from ofq.runs.files import AGAIN, as_json, read_json, reading
from ofq.runs.provenance import file_digest

if TYPE_CHECKING:
    import pandas as pd

INFO = "run.json"
_LARGE = (".safetensors", ".pt")
_SEAL = "sha256"  # in a measurement: the digest of all else that it holds
_TEXTS = {"layer", "group", "where"}  # columns of records that hold no numbers


class Digests(TypedDict):
    """The digests of the code that a run executed, and of the files that it read and wrote; older runs lack these."""

    code: str
    inputs: dict[str, str]
    outputs: NotRequired[dict[str, str]]


class Info(TypedDict, total=False):
    """What is read of ``run.json``."""

    run: str
    finished: str
    seconds: float
    cpu_seconds: float
    peak_memory_mib: float
    gpu_seconds: float
    gpu_memory_mib: int
    device: str
    hardware: dict[str, Any]
    devices: int
    threads: int
    machine: dict[str, Any]
    versions: dict[str, str]
    config: dict[str, Any]
    digests: Digests
    state: str
    resumed_after: int
    git: str
    dirty: bool
    changed: list[str]


class Measured(TypedDict, total=False):
    """What is read of any measurement in JSON."""

    digests: Digests


def read_info(path: Path, *names: str) -> Info:
    """Read a run's ``run.json``.

    Args:
        path: the file.
        names: what must stand in it.

    Raises:
        UserError: missing, damaged, of another form, or without one of the names, as of another version.
    """
    info: Info = read_json(path, Info)
    if absent := [name for name in names if name not in info]:
        raise UserError(f"{path} has no {' and '.join(absent)}, as if another version of ofq had written it; {AGAIN}")
    return info


def read_metrics(path: Path, *names: str) -> dict[str, float]:
    """Read a run's ``metrics.json``.

    Args:
        path: the file.
        names: what must stand in it.

    Raises:
        UserError: missing, damaged, no numbers by name, without one of the names, or changed since it was published.
    """
    found: dict[str, float] = read_json(path, dict[str, FiniteFloat])
    if absent := [name for name in names if name not in found]:
        raise UserError(f"{path} has no {' and '.join(absent)}; {AGAIN}")
    check(path)
    return found


def read_frame(path: Path, columns: Sequence[str]) -> "pd.DataFrame":
    """Read a record in Parquet.

    Args:
        path: the file.
        columns: those that it must have; all but names hold numbers.

    Raises:
        UserError: missing, damaged, empty, without one of the columns, or changed since it was published.
    """
    import pandas as pd

    with reading(path):  # pyarrow's errors are ValueErrors
        frame = pd.read_parquet(path)
    if absent := [name for name in columns if name not in frame]:
        raise UserError(f"{path} has no column {', '.join(absent)}; {AGAIN}")
    if frame.empty:
        raise UserError(f"{path} has no rows; {AGAIN}")
    if odd := [name for name in columns if name not in _TEXTS and not pd.api.types.is_numeric_dtype(frame[name])]:
        raise UserError(f"{path} holds no numbers in column {', '.join(odd)}; {AGAIN}")
    if (recorded := frame.attrs.get(_SEAL)) and recorded != _digest_of_rows(frame):
        raise _changed(path)
    check(path)
    return frame


def read_measured(path: Path, form: Any) -> Any:
    """Read a measurement of a run in JSON, of the given form.

    Raises:
        UserError: missing, damaged, empty, of another form, or changed since it was written.
    """
    content = read_json(path, form)
    if not content:
        raise UserError(f"{path} holds nothing; {AGAIN}")
    rest = {name: value for name, value in content.items() if name != _SEAL}
    if _SEAL in content and content[_SEAL] != digest_of(as_json(rest)):
        raise _changed(path)
    return content


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return what a measurement found with a digest of it, which :func:`read_measured` compares."""
    return content | {_SEAL: digest_of(as_json(content))}


def seal(frame: "pd.DataFrame", **more: Any) -> None:
    """Put a digest of a measurement's rows, which :func:`read_frame` compares, and more into its file's metadata."""
    frame.attrs = {**more, _SEAL: _digest_of_rows(frame)}


def digest_of(text: str) -> str:
    """Return the sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def digests_of(paths: Sequence[Path]) -> dict[str, str]:
    """Return the sha256 of files by name, as ``run.json`` holds those that its run published."""
    return {path.name: file_digest(path) for path in paths}


def check(path: Path) -> None:
    """Compare a file with the digest in the ``run.json`` beside it, if there is one; older runs have none.

    Raises:
        UserError: the file is not what its run published.
    """
    info = path.with_name(INFO)
    known = read_info(info).get("digests", {}).get("outputs", {}) if info.exists() else {}
    if path.name in known:
        _compare(path, known[path.name])


def problems(root: Path, *, large: bool = True) -> list[UserError] | None:
    """Return what is wrong with the files in a run's folder, or None where ``run.json`` does not say what they were.

    Args:
        root: the folder.
        large: whether weights and states of trainers are compared too.

    Raises:
        UserError: ``run.json`` is missing or damaged.
    """
    outputs = read_info(root / INFO, "digests")["digests"].get("outputs")
    if outputs is None:
        return None
    files = [root / name for name in outputs if large or not name.endswith(_LARGE)]
    return [
        error for path in [*files, *root.glob("noise.parquet"), *root.glob("probe*.json")] if (error := _wrong(path))
    ]


def _wrong(path: Path) -> UserError | None:
    try:
        if path.name == "noise.parquet":
            read_frame(path, [])
        elif path.name.startswith("probe"):
            measured: Measured = read_measured(path, Measured)
            for name, digest in measured.get("digests", {}).get("outputs", {}).items():
                with reading(path):  # which may hold anything for a name
                    other = path.with_name(name)
                with reading(other):
                    _compare(other, digest)
        else:
            with reading(path):
                check(path)
    except UserError as error:
        return error
    return None


def _compare(path: Path, digest: str) -> None:
    if file_digest(path) != digest:
        raise _changed(path)


def _changed(path: Path) -> UserError:
    return UserError(f"{path} was changed since it was published (sha256); {AGAIN}")


def _digest_of_rows(frame: "pd.DataFrame") -> str:
    return digest_of(frame.to_csv(index=False))
