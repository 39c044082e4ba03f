"""What a dry run says: how many jobs of which kind, why, and what follows from them, on one screen."""

from collections import Counter
from collections.abc import Sequence

from tabulate import tabulate  # type: ignore[import-untyped]

from ofq.config.params import Params
from ofq.errors import counted, first_of
from ofq.runs.paths import RESULTS, Run
from ofq.workflow.finished import STEPS, Finished, Made
from ofq.workflow.forecast.due import Due
from ofq.workflow.forecast.jobs import made_by
from ofq.workflow.forecast.table import TRAINING
from ofq.workflow.plan import Plan
from ofq.workflow.targets import named

_MOST_NAMES = 3
_MOST_LINES = 3  # of a step; edits rarely have more reasons than that


def outlook(params: Params, jobs: Sequence[Due]) -> str:
    """Return a line for each step and reason that jobs have in common, and a line for the parts of the report."""
    finished, plan = Finished(params), Plan(params)
    groups: dict[tuple[str, str], list[Made]] = {}
    replaced = set[Made]()
    others = Counter[str]()
    for job in jobs:
        if job.rule not in STEPS:
            others[job.rule] += job.rule not in named(params) and job.rule != "all"
            continue
        made = made_by(plan, job)
        part = [path for path in finished.files(made) if (RESULTS / path).exists()]
        if part and job.settings:
            replaced.add(made)
        why = "; ".join(job.reasons(part=bool(part)))
        groups.setdefault((job.rule, why), []).append(made)
    rows = [row for step in STEPS for row in _rows(step, groups, replaced)]
    trained = sum(len(made) for (step, _), made in groups.items() if step in TRAINING)
    total = sum(map(len, groups.values())) + sum(others.values())
    told = [f"{counted(total, 'job')} would run, {counted(trained, 'training')} among them:"] if rows else []
    told += tabulate(rows, tablefmt="plain", colalign=("right", "left", "left", "left")).splitlines() if rows else []
    parts = [f"{number} {rule}" if number > 1 else rule for rule, number in sorted(others.items()) if number]
    if parts:
        told.append(f"{'and then' if rows else 'would run'}: {', '.join(parts)}")
    studies = sorted({made.study for each in groups.values() for made in each})
    hours = f"; hours: python -m ofq plan {studies[0] if len(studies) == 1 else 'STUDY'}" if studies else ""
    return "\n".join([*told, f"each job with its files: snakemake -n --verbose{hours}"])


def _rows(step: str, groups: dict[tuple[str, str], list[Made]], replaced: set[Made]) -> list[list[str]]:
    """Return the rows of a step, the largest first; of many reasons the last row counts the rest."""
    found = [(why, made) for (name, why), made in groups.items() if name == step]
    found.sort(key=lambda each: (-len(each[1]), each[0]))
    rows = []
    for why, made in found[:_MOST_LINES] if len(found) > _MOST_LINES + 1 else found:
        earlier = sum(each in replaced for each in made)
        note = f", replacing {counted(earlier, 'earlier result')}" if earlier else ""
        rows.append([str(len(made)), step, f"{why}{note}", _names(made)])
    if rest := found[len(rows) :]:
        rows.append([str(sum(len(made) for _, made in rest)), step, f"for {len(rest)} other reasons", ""])
    return rows


def _names(made: Sequence[Made]) -> str:
    """Return what some jobs of one step have to do with: two by name, more by their variants."""
    if len(made) <= 2:
        return ", ".join(sorted(str(each.of) for each in made))
    return first_of(sorted({each.of.variant for each in made if isinstance(each.of, Run)}), _MOST_NAMES)
