"""Hand settings from the planner of jobs to the jobs, so that both use the same ones.

Snakemake resolves ``params.yaml`` once and writes the settings of each job that will run into one file. A job that is
started by hand resolves ``params.yaml`` itself.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel

from ofq.config.grid import all_runs
from ofq.config.params import Params, load
from ofq.config.resolve import Keeping, RunConfig, keeping, resolve
from ofq.environment import SETTINGS
from ofq.runs.files import write_text
from ofq.runs.paths import Run


class JobSettings(BaseModel):
    """The settings that a job needs from ``params.yaml``.

    Attributes:
        config: everything that its run depends on.
        keeping: how the run keeps its state.
        students: for a teacher, settings of the runs that it will teach.
    """

    config: RunConfig
    keeping: Keeping
    students: list[RunConfig] = []


def resolve_job(params: Params, run: Run) -> JobSettings:
    """Resolve the settings of the job of one run.

    Raises:
        UserError: a coordinate of the run does not exist; names the nearest one.
    """
    config = resolve(params, run)  # first: it checks the run
    others = all_runs(params, run.study) if run.full_precision else []
    students = [resolve(params, other) for other in others if other.teacher == run != other]
    return JobSettings(config=config, keeping=keeping(params, run.study), students=students)


def hand_over(path: Path, params: Params, runs: Iterable[Run]) -> None:
    """Write the settings of some runs' jobs into a file; the jobs find its name in ``OFQ_SETTINGS``."""
    jobs = {str(run): resolve_job(params, run).model_dump(mode="json", exclude_none=True) for run in runs}
    write_text(path, json.dumps(jobs))


def job_settings(run: Run) -> JobSettings:
    """Return the settings of a run's job: those handed over, or else what ``params.yaml`` says now.

    A job on a machine that cannot see the file reads ``params.yaml``, which Snakemake has copied there.

    Raises:
        UserError: ``params.yaml`` is wrong, or a coordinate of the run does not exist.
    """
    path = Path(os.environ.get(SETTINGS, ""))
    jobs = json.loads(path.read_text()) if path.is_file() else {}
    if str(run) in jobs:
        return JobSettings.model_validate_json(json.dumps(jobs[str(run)]))
    return resolve_job(load(), run)
