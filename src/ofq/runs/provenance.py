"""Where a number came from: versions of the libraries, the machine, the commit."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ofq.runs.code_digest import PACKAGE, module_files
from ofq.runs.paths import PARAMS


def file_digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_state(modules: Sequence[str]) -> dict[str, Any]:
    """Return the commit that is checked out in the project's root, and whether the files there are those of the commit.

    A repository counts if the project is its root or if it has ``params.yaml``: an unpacked archive may lie in another.

    Args:
        modules: of a run's own classes; their files count even where git does not know them.

    Returns:
        ``git``, ``dirty`` and, where that is true, ``changed``: the files. Nothing outside a git checkout.
    """
    commit, root = _git("rev-parse", "HEAD"), _git("rev-parse", "--show-toplevel")
    known = set((_git("ls-files", "-z", "--", "*.py", str(PARAMS)) or "").split("\0"))
    if commit is None or root is None or not (Path(root).samefile(".") or str(PARAMS) in known):
        return {}
    here = Path.cwd()
    own = [path.resolve() for path in (PARAMS, *(file for module in modules for file in module_files(module)))]
    unknown = {str(path.relative_to(here)) for path in own if path.is_relative_to(here)} - known
    changed = (_git("diff", "--name-only", "-z", "--relative", "HEAD") or "").split("\0")
    files = sorted(unknown.union(filter(None, changed)))
    return {"git": commit, "dirty": bool(files), **({"changed": files} if files else {})}


def _git(*arguments: str) -> str | None:
    return _output(["git", *arguments])


def _output(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # not installed
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that numbers depend on, as far as they are installed."""
    # Steps run without Snakemake, and from a folder.
    found = {name: version(name) for name in ("torch", "timm", "numpy", "scikit-learn", "snakemake", PACKAGE)}
    return {"python": platform.python_version()} | {name: number for name, number in found.items() if number}


def version(name: str) -> str | None:
    """Return the version of a library, or None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def driver() -> str | None:
    """Return the version of the driver of NVIDIA's cards, or None where nvidia-smi does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return next(iter((_output(command) or "").splitlines()), None)


def machine() -> dict[str, Any]:
    """Return the processor, how many of its cores this process may use, and the platform."""
    return {"cpu": _cpu_model(), "cores": len(os.sched_getaffinity(0)), "platform": platform.platform()}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
