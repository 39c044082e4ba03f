"""The mark that a training leaves beside its states when it fails."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ofq.cli.run import INTERRUPTED, REPLY, Ended, said_of
from ofq.errors import Stopped, shortened
from ofq.runs.locks import Held
from ofq.runs.paths import Run
from ofq.runs.standing import FAILED, Failure, forget, note


@contextlib.contextmanager
def failure_noted(run: Run) -> Iterator[None]:
    """Leave a mark where the training of a run fails, for ``status``; that of an earlier start goes first.

    None is left where it is stopped or another process trains it.
    """
    directory = run.state("")
    forget(directory, FAILED)
    try:
        yield
    except (Stopped, Held, KeyboardInterrupt):
        raise
    except BaseException as error:
        stopped = isinstance(error, SystemExit) and isinstance(error.code, int) and error.code >= INTERRUPTED
        if REPLY not in os.environ and not stopped:
            lines = str(error).splitlines() or [""]
            said = error.said if isinstance(error, Ended) else said_of(error) or f"{type(error).__name__}: {lines[0]}"
            note(directory, Failure(shortened(said, 500), _printed_to()))
        raise


def _printed_to() -> str | None:
    """Return the file that this process prints its errors to; None for a terminal, a pipe, or where nothing tells."""
    with contextlib.suppress(OSError):
        path = Path("/proc/self/fd/2").readlink()
        if path.is_file():
            return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    return None
