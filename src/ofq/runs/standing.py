"""What a run tells of itself beside its states: how far it is and why it failed. No number depends on it.

Two small files of a run's directory under ``runs/``: :data:`PROGRESS` while it trains and after it was stopped, and
:data:`FAILED` after it failed, until it is started again. A run that ends well leaves neither.
"""

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from ofq.runs.files import UNFINISHED

PROGRESS, FAILED = "progress.json", "failed.json"


@dataclass(frozen=True)
class Standing:
    """How far a training is.

    Attributes:
        step: the last one that is done.
        steps: how many there are.
        at: when this was written, in seconds since the epoch.
        rate: images a second.
        left: seconds that the rest will take.
        loss: mean since the last evaluation but one.
        top1: accuracy of the last evaluation, in percent.
        osc: share of oscillating weights, in percent.
    """

    step: int
    steps: int
    at: float
    rate: float | None = None
    left: float | None = None
    loss: float | None = None
    top1: float | None = None
    osc: float | None = None


@dataclass(frozen=True)
class Failure:
    """Why a training failed.

    Attributes:
        error: what was wrong, in one line.
        log: file that holds all that it printed; None where it printed to no file.
    """

    error: str
    log: str | None


_Kind = TypeVar("_Kind", Standing, Failure)


def standing(directory: Path) -> Standing | None:
    """Return how far the run of a directory is or was, if it says so."""
    return _read(directory / PROGRESS, Standing)


def failure(directory: Path) -> Failure | None:
    """Return why the run of a directory failed, if it did when it was last started."""
    return _read(directory / FAILED, Failure)


def note(directory: Path, told: Standing | Failure) -> None:
    """Write how far a run is or why it failed, whole or not at all.

    Nothing is flushed to the disk, and a disk that is full ends no training.
    """
    path = directory / (PROGRESS if isinstance(told, Standing) else FAILED)
    temporary = path.with_name(f"{UNFINISHED}{path.name}")
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(told)))
        temporary.replace(path)


def forget(directory: Path, *names: str) -> None:
    """Remove what a run told, both files or those that are named."""
    for name in names or (PROGRESS, FAILED):
        for path in (directory / name, directory / f"{UNFINISHED}{name}"):
            with contextlib.suppress(OSError):
                path.unlink()


def _read(path: Path, kind: type[_Kind]) -> _Kind | None:
    try:
        told: dict[str, Any] = json.loads(path.read_text())
        return kind(**told)
    except (OSError, ValueError, TypeError):  # none, or one that another version wrote
        return None
