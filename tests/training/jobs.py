"""A run that is begun, for tests of what is done with it."""

from contextlib import AbstractContextManager

from ofq.config import params
from ofq.config.resolve import KEEPING, Keeping, RunConfig, resolve
from ofq.runs.paths import Run
from ofq.training.distributed import ALONE, Rank
from ofq.training.job import Job, Step, started


def job_of(
    run: Run, config: RunConfig | None = None, rank: Rank = ALONE, keeping: Keeping = KEEPING
) -> AbstractContextManager[Job[RunConfig]]:
    """The job of a run, of ``params.yaml`` unless other settings are given."""
    return started(run, config or resolve(params.load(), run), Step("ofq.training.qat"), keeping, rank)
