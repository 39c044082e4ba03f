"""File locks that end with the process that holds them, however it ends, so that none is ever stale."""

import contextlib
import datetime
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from ofq.errors import UserError
from ofq.runs.files import make_directory

_POLL_SECONDS = 0.1


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
            holder = _holder(path)
            raise taken(holder) if taken else Held(f"{path} is held by {holder}")
        time.sleep(_POLL_SECONDS)
    with file:
        now = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def shared(path: Path) -> tuple[IO[str], bool]:
    """Hold a lock that other processes may share.

    Returns:
        The file, which holds the lock until it is closed, and whether nobody else held it.

    Raises:
        UserError: the file system has no locks.
    """
    make_directory(path.parent)
    file = path.open("a+")
    alone = _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _flock(file, fcntl.LOCK_SH)
    return file, alone


def _acquire(path: Path) -> IO[str] | None:
    """Return the locked file, or None if another process holds it."""
    make_directory(path.parent)
    while True:
        file = path.open("a+")
        if not _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            file.close()
            return None
        # The last holder may have removed the file between our opening and our locking it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _flock(file: IO[str], operation: int) -> bool:
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(
            f"{file.name} cannot be locked ({error.strerror}); the project must lie on a file system with locks"
        ) from None
    return True


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        if holder := path.read_text().strip():
            return holder
    return "another process"
