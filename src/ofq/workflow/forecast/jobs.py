"""The jobs that Snakemake would run of a study, each with the reason in words and the step that it goes on from."""

from collections import Counter
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

    # A study that compares learning rates has no groups, and its target is everything.
    target = next((name for name, place in named(params).items() if place == (study, group)), study)
    finished = Finished(params)
    steps, others = told(params, finished, due(target))
    found = {each.made: each.why for each in steps}
    ordered = sorted(found, key=lambda made: (STEPS.index(made.step), made.study, str(made)))
    return [Job(made, found[made], _first(finished, made, found)) for made in ordered], others.total()


@dataclass(frozen=True)
class Told:
    """What a step would make, why, and whether an earlier result with other settings is replaced."""

    made: Made
    why: str
    replaces: bool


def told(params: Params, finished: Finished, jobs: Iterable["Due"]) -> tuple[list[Told], Counter[str]]:
    """Return what jobs of the steps would make, and how many others there are of each rule that makes something."""
    plan, steps, others = Plan(params), list[Told](), Counter[str]()
    for job in jobs:
        if job.rule in STEPS:
            made = Made(job.rule, job.wildcards.study if job.rule == "data" else plan.run(job.wildcards))
            part = any((RESULTS / path).exists() for path in finished.files(made))
            steps.append(Told(made, "; ".join(job.reasons(part=part)), replaces=part and bool(job.settings)))
        elif job.rule != "all" and job.rule not in named(params):
            others[job.rule] += 1
    return steps, others


def _first(finished: Finished, made: Made, found: Iterable[Made]) -> int:
    """Return the step that a training goes on from; what it needs may be made anew, and then it begins."""
    if made.step in ("data", "noise", "probe") or any(needed in found for needed in finished.needs(made)):
        return 0
    return finished.saved_step(made)
