"""Where a number came from: versions of the libraries, the machine, the commit."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from ofq.runs.code_digest import PACKAGE


def file_digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_commit() -> str | None:
    """Return the commit checked out in the project's root, or None outside a git checkout."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that numbers depend on."""
    names = ["torch", "timm", "numpy", "scikit-learn", "snakemake", PACKAGE]
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def machine() -> dict[str, Any]:
    """Return the processor, how many of its cores this process may use, and the platform."""
    return {"cpu": _cpu_model(), "cores": len(os.sched_getaffinity(0)), "platform": platform.platform()}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
