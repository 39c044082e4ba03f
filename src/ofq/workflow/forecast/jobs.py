"""The jobs that Snakemake would run of a study, each with the reason in words and the step that it goes on from."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ofq.config.grid import grids_named
from ofq.config.params import Params
from ofq.errors import UserError
from ofq.runs.paths import RESULTS
from ofq.workflow.finished import STEPS, Finished, Made
from ofq.workflow.plan import Plan
from ofq.workflow.targets import named

if TYPE_CHECKING:
    from ofq.workflow.forecast.due import Due


@dataclass(frozen=True)
class Job:
    """What would be made, why, and after which saved step a training goes on."""

    made: Made
    why: str
    first: int


def jobs_of(params: Params, study: str, group: str | None) -> tuple[list[Job], int]:
    """Return the jobs of a study's target, or of one of its groups, by steps, and how many further jobs there are.

    Those further ones are parts of the report, the toy and the mirror, which take seconds.

    Raises:
        UserError: no such study or group, Snakemake is not installed, or planning met a mistake in the project.
    """
    grids_named(params, study, group)  # names the nearest
    if find_spec("snakemake") is None:
        raise UserError("snakemake is not installed here; what is left by the files alone says: python -m ofq runs")
    from ofq.workflow.forecast.due import due

    (target,) = [name for name, place in named(params).items() if place == (study, group)][:1]
    finished, plan = Finished(params), Plan(params)
    found, others = dict[Made, str](), 0
    for job in due(target):
        if job.rule not in STEPS:
            others += job.rule not in named(params)
            continue
        made = made_by(plan, job)
        part = any((RESULTS / path).exists() for path in finished.files(made))
        found[made] = "; ".join(job.reasons(part=part))
    ordered = sorted(found, key=lambda made: (STEPS.index(made.step), made.study, str(made)))
    return [Job(made, found[made], _first(finished, made, found)) for made in ordered], others


def made_by(plan: Plan, job: "Due") -> Made:
    """Return what a job of one of the steps makes."""
    return Made(job.rule, job.wildcards.study if job.rule == "data" else plan.run(job.wildcards))


def _first(finished: Finished, made: Made, found: Iterable[Made]) -> int:
    """Return the step that a training goes on from; what it needs may be made anew, and then it begins."""
    if made.step in ("data", "noise", "probe") or any(needed in found for needed in finished.needs(made)):
        return 0
    return finished.saved_step(made)
