"""The jobs that Snakemake would run, and why; beside ``internals`` the one file that looks into its job graph."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake.api import SnakemakeApi
from snakemake.settings.types import DAGSettings, OutputSettings, Quietness, ResourceSettings

from ofq.errors import first_of
from ofq.runs.files import remove_empty
from ofq.workflow.internals import changed_params, mistake_behind

_OWN = Path(".snakemake")
_MOST_NAMES = 3


@dataclass(frozen=True)
class Due:
    """A job that Snakemake would run, and why.

    Attributes:
        rule: name of its rule.
        wildcards: of the job, as functions of rules get them.
        missing: names of its files that are not there.
        newer: names of files that it reads and that are newer than what it made.
        settings: those that changed, in words.
        code: whether the digest of its code, or its command, changed.
        inputs: whether it would read other files than it did.
        incomplete: whether it was stopped while it wrote.
        after: the rules of jobs that make anew what it reads.
        forced: whether it was asked for, whatever is there.
    """

    rule: str
    wildcards: Any
    missing: list[str]
    newer: list[str]
    settings: list[str]
    code: bool
    inputs: bool
    incomplete: bool
    after: list[str]
    forced: bool

    def reasons(self, *, part: bool) -> list[str]:
        """Return why it would run, in words, without what follows from the first of them.

        Args:
            part: whether some of what it makes is there.
        """
        if self.missing and not part:
            return ["missing"]
        found = [
            *(["forced"] if self.forced else []),
            *([f"missing: {first_of(self.missing, _MOST_NAMES)}"] if self.missing else []),
            *(["incomplete"] if self.incomplete and not self.missing else []),
            *self.settings,
            *(["code"] if self.code else []),
            *(["other inputs"] if self.inputs else []),
            *([f"newer: {first_of(self.newer, _MOST_NAMES)}"] if self.newer else []),
            *([f"after {' and '.join(self.after)}"] if self.after else []),
        ]
        return found or ["other reasons, told by --verbose"]


def due(target: str) -> list[Due]:
    """Return the jobs that Snakemake would run for a target; runs and writes nothing.

    Raises:
        UserError: a function of a rule met a user's mistake.
        SystemExit: the Snakefile's own checks did, and said so.
    """
    new = not _OWN.exists()
    try:
        with SnakemakeApi(OutputSettings(dryrun=True, quiet={Quietness.ALL})) as api:
            started = api.workflow(ResourceSettings(cores=1), snakefile=Path("Snakefile"))
            started.dag(DAGSettings(targets={target}, force_incomplete=True))  # as the profiles say
            workflow = started._workflow
            workflow._prepare_dag(forceall=False, ignore_incomplete=True, lock_warn_only=True)
            workflow._build_dag()
            return due_of(workflow)
    except Exception as error:
        raise mistake_behind(error) or error from None
    finally:
        if new:
            remove_empty(_OWN)


def due_of(workflow: Any) -> list[Due]:
    """Return the jobs that will run; the job graph must have been built."""
    return [_due(workflow.dag, job) for job in workflow.dag.needrun_jobs()]


def _due(dag: Any, job: Any) -> Due:
    reason = dag.reason(job)
    settings, code = changed_params(reason.params_changed) if reason.params_changed else ([], False)
    newer = {str(path) for path in reason.updated_input} - {str(path) for path in reason.updated_input_run}
    before = {other.rule.name for other in dag.dependencies[job] if dag.needrun(other)}
    return Due(
        rule=job.rule.name,
        wildcards=job.wildcards,
        missing=sorted(Path(path).name for path in reason.missing_output),
        newer=sorted(newer),
        settings=settings,
        code=bool(code or reason.code_changed),
        inputs=bool(reason.input_changed),
        incomplete=bool(reason.incomplete_output),
        after=sorted(before) if reason.updated_input_run else [],
        forced=bool(reason.forced),
    )
