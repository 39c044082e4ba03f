"""A copy of the workflow in a directory of its own, where studies can be run that leave the project alone."""

import os
import shutil
import sys
from pathlib import Path

from ofq.environment import WARM_SOCKET
from ofq.errors import UserError
from ofq.runs.paths import PARAMS

_FILES = ("Snakefile", "claims.yaml")
_FOLDERS = ("rules", "report", "envs", "profiles", "src/ofq")
# What would lead the copy's jobs to another run's warm process, and its results to another store.
_LEFT_OUT = {WARM_SOCKET, "MLFLOW_TRACKING_URI", "SNAKEMAKE_PROFILE"}


def copy_workflow(source: Path, target: Path, params: str) -> None:
    """Copy the Snakefile, all that it includes and the package, without results.

    Args:
        source: root of the project.
        target: root of the copy; made where it does not exist.
        params: text of the copy's ``params.yaml``.

    Raises:
        UserError: ``source`` is no project.
    """
    for name in (*_FILES, *_FOLDERS):
        if not (source / name).exists():
            raise UserError(f"{name} not found in {source}; run from the project's root")
    target.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        shutil.copy(source / name, target)
    for name in _FOLDERS:
        shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    (target / PARAMS).write_text(params)


def environment(root: Path) -> dict[str, str]:
    """Environment for the programs of the copy at ``root``: this interpreter's, and the copied package."""
    kept = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return kept | {"PATH": path, "PYTHONPATH": str(root / "src")}
