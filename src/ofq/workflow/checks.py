"""What must hold where Snakemake is started: folder, package, ``--config``, what runs jobs and their software."""

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ofq.environment import SOURCE
from ofq.errors import UserError, unknown

RESUME = "resume_across_code"
"""The one key of ``--config``."""


def check_place(root: Path) -> None:
    """Raise :class:`UserError` unless this process works in the project's root, and jobs can find the package there.

    Args:
        root: folder of the Snakefile.
    """
    if not Path.cwd().samefile(root):
        raise UserError(f"the project is {root.resolve()}, and this is {Path.cwd()}; start snakemake in the former")
    if os.pathsep in str(SOURCE):
        raise UserError(f"{SOURCE}: jobs do not find a package below a folder with '{os.pathsep}'; move the project")


def resumes(config: Mapping[str, Any]) -> bool:
    """Return whether the values of ``--config`` let every job resume from a state that other code saved.

    Raises:
        UserError: there is another key, or the value is neither true nor false.
    """
    for name in config:
        if name != RESUME:
            elsewhere = "settings stand in params.yaml, and a study is named as the target: snakemake STUDY"
            raise UserError(f"{unknown('key of --config', name, [RESUME])}; {elsewhere}")
    value = str(config.get(RESUME, False)).lower()
    if value not in ("true", "false"):
        raise UserError(f"--config {RESUME}={value}: it should be true or false")
    return value == "true"


def check_software(methods: Collection[str]) -> None:
    """Raise :class:`UserError` if Snakemake should run jobs in another environment, which would lack the package.

    Args:
        methods: names of Snakemake's methods of software deployment.
    """
    if methods:
        raise UserError(
            f"--software-deployment-method {' '.join(sorted(methods))}: jobs run in the environment of snakemake;"
            " leave it out (docs/environments.md)"
        )


def check_executor(name: str | None) -> None:
    """Raise :class:`UserError` if jobs should go through SLURM, and its commands are not here.

    Args:
        name: Snakemake's name of what runs jobs.
    """
    if name == "slurm" and shutil.which("sbatch") is None:
        raise UserError("there is no sbatch here; start snakemake where SLURM's commands are, as on a login node")
