"""Hand parameters from the planner of jobs to the jobs, so that both use the same ones.

Snakemake reads ``params.yaml`` once and writes what it read into a file of its own, below ``.snakemake``, which jobs on
other machines see too. A job that is started by hand reads ``params.yaml`` itself.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from ofq.config.grid import all_runs
from ofq.config.params import Params, load
from ofq.config.resolve import Keeping, RunConfig, keeping, resolve
from ofq.environment import SETTINGS
from ofq.errors import UserError
from ofq.runs.files import write_text
from ofq.runs.paths import PARAMS, Run


@dataclass(frozen=True)
class JobSettings:
    """The settings that a job needs from ``params.yaml``.

    Attributes:
        config: everything that its run depends on.
        keeping: how the run keeps its state.
        students: for a teacher, settings of the runs that it will teach.
    """

    config: RunConfig
    keeping: Keeping
    students: list[RunConfig]


def resolve_job(params: Params, run: Run) -> JobSettings:
    """Resolve the settings of the job of one run.

    Raises:
        UserError: a coordinate of the run does not exist; names the nearest one.
    """
    config = resolve(params, run)  # first: it checks the run
    others = all_runs(params, run.study) if run.full_precision else []
    students = [resolve(params, other) for other in others if other.teacher == run != other]
    return JobSettings(config, keeping(params, run.study), students)


def hand_over(path: Path, params: Params) -> None:
    """Write parameters into a file; jobs find its name in ``OFQ_SETTINGS``."""
    write_text(path, params.model_dump_json(exclude_unset=True))


def planned(path: Path = PARAMS) -> Params:
    """Return the parameters that a job was handed, or else those of ``params.yaml``.

    Raises:
        UserError: ``params.yaml`` is wrong, or what the job was handed is gone with the Snakemake that planned it.
    """
    if not (name := os.environ.get(SETTINGS)):
        return load(path)
    try:
        return Params.model_validate_json(Path(name).read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{name} is gone, and with it the settings that this job was planned with: the snakemake that planned it "
            "has ended; run snakemake again"
        ) from None


def job_settings(run: Run) -> JobSettings:
    """Return the settings of a run's job.

    Raises:
        UserError: as :func:`planned` and :func:`resolve_job` do.
    """
    return resolve_job(planned(), run)
