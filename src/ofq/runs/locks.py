"""File locks that end with the process that holds them, however it ends, so that none is ever stale.

Where the project's file system has none, as some disks of clusters, ``OFQ_LOCKS`` names a directory that has: on a disk
of this machine it is seen by no process of another one.
"""

import contextlib
import datetime
import fcntl
import hashlib
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from ofq.environment import LOCKS
from ofq.errors import UserError
from ofq.runs.files import make_directory

_POLL_SECONDS = 0.1
_SOMEBODY = "another process"


class Held(UserError):
    """Another process holds the lock; says which, on which host, and since when."""


@contextlib.contextmanager
def exclusive(path: Path, *, patience: float = 0.0, taken: Callable[[str], Exception] | None = None) -> Iterator[None]:
    """Hold a lock for this process; the file names the holder and is removed at the end.

    Args:
        path: file of the lock.
        patience: seconds to wait for a holder that may be about to end.
        taken: makes the error for a lock that the named holder keeps; None: :class:`Held`.

    Raises:
        Held: another process still holds it.
        UserError: the file system has no locks.
    """
    deadline = time.monotonic() + patience
    while (file := _acquire(path)) is None:
        if time.monotonic() >= deadline:
            holder = _holder(_place(path))
            raise taken(holder) if taken else Held(f"{path} is held by {holder}")
        time.sleep(_POLL_SECONDS)
    with _held(file, path):
        yield


@contextlib.contextmanager
def some_of(paths: Sequence[Path], count: int = 1, *, waiting: Callable[[str], None]) -> Iterator[list[int]]:
    """Hold the first of several locks that are free, and wait until so many are; yields their numbers.

    They are taken all at once or none: two that wait with a part of what they need would wait for ever.

    Args:
        paths: files of the locks, in one directory.
        count: how many to hold.
        waiting: called once if too few are free, with the first holder.

    Raises:
        UserError: the file system has no locks.
    """
    told = False
    while not (taken := _together(paths, count)):
        if not told:
            holders = (_holder(_place(path)) for path in paths)
            waiting(next((holder for holder in holders if holder != _SOMEBODY), _SOMEBODY))
            told = True
        time.sleep(_POLL_SECONDS)
    with contextlib.ExitStack() as stack:
        for number, file in taken.items():
            stack.enter_context(_held(file, paths[number]))
        yield list(taken)


def holder(path: Path) -> str | None:
    """Return which process holds a lock, or None if no one does; takes and makes nothing.

    Who tries to take it in the very same instant has to try again.
    """
    try:
        with _place(path).open() as file:
            return None if _flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB) else file.read().strip() or _SOMEBODY
    except FileNotFoundError:
        return None


def shared(path: Path) -> tuple[IO[str], bool]:
    """Hold a lock that other processes may share.

    Returns:
        The file, which holds the lock until it is closed, and whether it is certain that nobody else held it.

    Raises:
        UserError: the file system has no locks.
    """
    file = _open(path)
    alone = _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _flock(file, fcntl.LOCK_SH)
    return file, alone and not os.environ.get(LOCKS)


@contextlib.contextmanager
def _held(file: IO[str], path: Path) -> Iterator[None]:
    """Let a locked file name this process, and remove it at the end."""
    with file:
        now = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
        file.flush()
        try:
            yield
        finally:
            _place(path).unlink(missing_ok=True)


def _place(path: Path) -> Path:
    """Return the file that is locked for a path: the path itself, unless locks lie elsewhere."""
    elsewhere = os.environ.get(LOCKS)
    if not elsewhere:
        return path
    return Path(elsewhere) / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]}.lock"


def _open(path: Path) -> IO[str]:
    make_directory(_place(path).parent)
    return _place(path).open("a+")


def _acquire(path: Path) -> IO[str] | None:
    """Return the locked file, or None if another process holds it."""
    while True:
        file = _open(path)
        if not _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            file.close()
            return None
        # The last holder may have removed the file between our opening and our locking it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), _place(path).stat()):
                return file
        file.close()


def _together(paths: Sequence[Path], count: int) -> dict[int, IO[str]]:
    """Return so many locked files by their numbers, or none; of those that need several one at a time tries."""
    turn = exclusive(paths[0].parent / "turn.lock", patience=math.inf) if count > 1 else contextlib.nullcontext()
    with turn:
        taken: dict[int, IO[str]] = {}
        for number, path in enumerate(paths):
            if len(taken) < count and (file := _acquire(path)):
                taken[number] = file
        if len(taken) == count:
            return taken
        for file in taken.values():
            file.close()
        return {}


def _flock(file: IO[str], operation: int) -> bool:
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(
            f"{file.name} cannot be locked ({error.strerror}); let {LOCKS} name a directory on a disk of this machine"
            f" (trainers on other machines are then not noticed): export {LOCKS}=/tmp/ofq-locks"
        ) from None
    return True


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        if holder := path.read_text().strip():
            return holder
    return _SOMEBODY
