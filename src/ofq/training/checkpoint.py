"""Resumable state of a run: one trainer at a time, each checkpoint whole or absent."""

import contextlib
import datetime
import fcntl
import os
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ofq.errors import UserError, missing
from ofq.files import replacing, write_text
from ofq.provenance import file_digest

KEPT = 2


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Hold the run's directory for this process; the lock goes with the process, so none is ever stale.

    Raises:
        UserError: another trainer holds it; says which.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{directory} is being trained by {file.read().strip()}; wait for it or end it") from None
        file.truncate(0)
        now = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
        file.flush()
        yield


def save(directory: Path, step: int, state: dict[str, Any]) -> None:
    """Write the state reached after ``step`` steps, with its checksum; keep the latest two.

    Raises:
        UserError: no space or no permission; the earlier checkpoints are kept.
    """
    path = directory / f"checkpoint-{step:09d}.pt"
    write(path, state)
    write_text(path.with_suffix(".sha256"), file_digest(path))
    for old in sorted(directory.glob("checkpoint-*.pt"))[:-KEPT]:
        old.unlink()
        old.with_suffix(".sha256").unlink(missing_ok=True)


def write(path: Path, state: dict[str, Any]) -> None:
    """Write trainer state, whole or not at all; equal state makes equal bytes."""
    # torch.save puts the name of a path into the archive, but not that of an open file.
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def load_latest(directory: Path) -> dict[str, Any] | None:
    """The newest undamaged checkpoint, or None where there is none; a damaged one is reported and passed over."""
    for path in sorted(directory.glob("checkpoint-*.pt"), reverse=True):
        checksum = path.with_suffix(".sha256")
        if checksum.is_file() and checksum.read_text() == file_digest(path):
            return load(path)
        print(f"{path} is damaged; going on from the checkpoint before it", flush=True)
    return None


def load(path: Path) -> dict[str, Any]:
    """Read trainer state; nothing but tensors and plain values is accepted, so a file cannot run code.

    Raises:
        UserError: missing, damaged, or holding anything else.
    """
    try:
        return dict(torch.load(path, weights_only=True, map_location="cpu"))
    except FileNotFoundError:
        raise missing(path) from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or no trainer state ({str(error).splitlines()[0][:120]})") from None
