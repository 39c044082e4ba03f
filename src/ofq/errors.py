"""The exception for a user's mistake, which ends in a single line and exit code 2."""

import difflib
import errno
import os
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

_MEND = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, then run the same again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "give yourself the permission, or work in a directory of your own"),
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "work in a directory that can be written",
    errno.ENOTDIR: "move away the file that stands where a directory should be",
    errno.EISDIR: "move away the directory that stands where a file should be",
    errno.EEXIST: "move away what stands there (ls -l shows it)",
    errno.ENAMETOOLONG: "choose a shorter name or directory",
    errno.ELOOP: "mend the symbolic links that lead in a circle",
}
EXTRAS = {
    "export": ("onnx", "onnxruntime"),
    "pipeline": (
        *("dvc", "jinja2", "matplotlib", "mlflow", "psutil", "pyarrow"),
        *("rich", "rocrate", "scipy", "sklearn", "snakemake", "tabulate"),
    ),
}
"""Modules of the packages that each extra of ``pyproject.toml`` brings."""
_MOST_NAMES = 40  # of those that are known, in a message


class UserError(Exception):
    """A mistake of the user: what is wrong, where, and how to mend it, in one line.

    ``python -m ofq`` and the Snakefile print it without a traceback and end with exit code 2.
    """

    def __str__(self) -> str:
        # A user's text or a library's may hold line breaks and characters that disturb a terminal.
        text = " ".join(super().__str__().split())
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Missing(UserError):
    """A file that is not there, and that Snakemake is expected to make."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} does not exist; make it with: snakemake {path}")
        self.path = path


class Stopped(Exception):
    """The run was told to stop; its state is saved and the same command continues from it."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signum).name} after step {step}; the same command goes on from there"
        )
        self.signum = signum


def missing(path: Path) -> UserError:
    """Return the error for a file of the pipeline that does not exist yet."""
    return Missing(path)


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that does not exist, with the nearest right one or those that there are."""
    names = sorted(known)
    name = shortened(name)
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{matches[0]}'?" if matches else f"known: {first_of(names, _MOST_NAMES) or 'none'}"
    return UserError(f"unknown {kind} '{name}'; {hint}")


def first_of(names: Sequence[str], most: int) -> str:
    """Return a list in words: the first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(number: int, thing: str) -> str:
    """Return a number of things in words: ``1 run``, ``2 runs``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def shortened(text: str, length: int = 80) -> str:
    """Return the text, or its beginning if it is longer than a message should be."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def refused(error: OSError, path: Path | str | None = None, *, action: str = "read or write") -> UserError | None:
    """Return the error for missing space or permission, or something in the way; None for other faults.

    Args:
        error: the operating system's error.
        path: what was to be read or written; None for the file that the error names.
        action: what could not be done to it.
    """
    if error.errno == errno.ENOENT and "No usable temporary directory" in str(error):  # the disk is full
        return UserError("cannot write temporary files; free some space, or set TMPDIR to a directory that has some")
    if error.errno not in _MEND:
        return None
    named = "" if error.filename is None else str(error.filename)
    path = str(path or named or "a file")
    at = f" at {named}" if named and path.startswith(f"{named}/") else ""
    return UserError(f"cannot {action} {shortened(path, 200)}: {os.strerror(error.errno)}{at}; {_MEND[error.errno]}")


def not_installed(error: ImportError) -> UserError | None:
    """Return what to say where a package of one of our extras is not installed; None for another import that failed."""
    name = getattr(error if error.name else error.__cause__, "name", None)  # pandas says it of what it needs itself
    for extra, modules in EXTRAS.items():
        if (package := str(name).partition(".")[0]) in modules:
            return UserError(f"{package} is not installed here; run: pip install 'ofq[{extra}]'")
    return None
