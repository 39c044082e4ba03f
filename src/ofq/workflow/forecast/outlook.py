"""What a dry run says: how many jobs of which kind, why, and what follows from them, on one screen."""

from collections.abc import Collection, Sequence

from tabulate import tabulate  # type: ignore[import-untyped]

from ofq.config.params import Params
from ofq.errors import counted, first_of
from ofq.runs.paths import CRATE, EXPORTS, Run
from ofq.workflow.finished import STEPS, Finished, Made
from ofq.workflow.forecast.due import Due
from ofq.workflow.forecast.jobs import told
from ofq.workflow.forecast.table import TRAINING
from ofq.workflow.targets import named

_MOST_NAMES = 3
_MOST_LINES = 3  # of a step; edits rarely have more reasons than that


def outlook(params: Params, jobs: Sequence[Due], targets: Collection[str] = ()) -> str:
    """Return a line for each step and reason that jobs have in common, and a line for the parts of the report.

    Args:
        params: the project's.
        jobs: that Snakemake would run.
        targets: what was asked for; nothing: the default study.
    """
    steps, others = told(params, Finished(params), jobs)
    groups: dict[tuple[str, str], list[Made]] = {}
    for each in steps:
        groups.setdefault((each.made.step, each.why), []).append(each.made)
    replaced = {each.made for each in steps if each.replaces}
    rows = [row for step in STEPS for row in _rows(step, groups, replaced)]
    trained = sum(len(made) for (step, _), made in groups.items() if step in TRAINING)
    total = sum(map(len, groups.values())) + sum(others.values())
    lines = [f"{counted(total, 'job')} would run, {counted(trained, 'training')} among them:"] if rows else []
    lines += tabulate(rows, tablefmt="plain", colalign=("right", "left", "left", "left")).splitlines() if rows else []
    parts = [f"{number} {rule}" if number > 1 else rule for rule, number in sorted(others.items())]
    if parts:
        lines.append(f"{'and then' if rows else 'would run'}: {', '.join(parts)}")
    places = [named(params).get(target) for target in targets] or [(params.study, None)]
    hours = ""
    if rows and len(places) == 1 and places[0] and places[0][1] not in (CRATE, EXPORTS):
        hours = f"; hours: python -m ofq plan {' '.join(filter(None, places[0]))}"
    return "\n".join([*lines, f"each job with its files: snakemake -n --verbose{hours}"])


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
