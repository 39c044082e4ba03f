"""The one exception that a user's mistake ends in: a single line and exit code 2."""

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """What is wrong, where, and how to mend it, in one line.

    ``python -m ofq`` and the Snakefile print it without a traceback and end with exit code 2.
    """


def missing(path: Path) -> UserError:
    """The error for a file of the pipeline that is not there yet."""
    return UserError(f"{path} does not exist; make it with: snakemake {path}")


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist: names the nearest right one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names) or 'none'}"
    return UserError(f"unknown {kind} '{name}'; {hint}")
