"""The verdict of a drill: compare two copies of a study to the last bit, and say it in two tables and one line."""

import filecmp
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tabulate import tabulate  # type: ignore[import-untyped]

from ofq.runs.paths import RESULTS, Run
from tools.drill.course import Course, Strike

# Times, versions, and identifiers of the store: not deterministic, and not compared.
_APART = {"run.json", "prepared.json", "mlflow.json"}


@dataclass(frozen=True)
class Comparison:
    """The deterministic files of two copies, relative to ``results/``, and those that are not equal in both."""

    names: list[str]
    different: list[str]
    missing: list[str]

    @property
    def equal(self) -> bool:
        """Whether there was something to compare and all of it is equal."""
        return bool(self.names) and not self.different and not self.missing


def compare(undisturbed: Path, disturbed: Path) -> Comparison:
    """Compare every deterministic file below ``results/`` of two projects byte by byte."""
    left, right = undisturbed / RESULTS, disturbed / RESULTS
    names = sorted(_deterministic(left) | _deterministic(right))
    _, different, missing = filecmp.cmpfiles(left, right, names, shallow=False)
    return Comparison(names, different, missing)


def strike_table(strikes: Sequence[Strike]) -> str:
    """Return a table with one row a kill."""
    rows = [
        (number, f"{strike.seconds:.1f}", strike.victim, strike.kill.signum.name, strike.doing, strike.what_came_after)
        for number, strike in enumerate(strikes, start=1)
    ]
    return _table(("", "second", "victim", "signal", "in the middle of", "what came after"), *rows)


def comparison_table(comparison: Comparison) -> str:
    """Return a table with one row a run, and one each for the data, the report and the toy regression."""
    rows = []
    for owner, group in groupby(comparison.names, key=_owner):
        names = list(group)
        notes = []
        for word, odd in ("different", comparison.different), ("only in one", comparison.missing):
            if listed := [name.removeprefix(f"{owner}/") for name in names if name in odd]:
                notes.append(f"{word}: {', '.join(listed)}")
        run = Run.parse(owner)
        rows.append((run.label if run else owner.split("/")[-1], len(names), "; ".join(notes) or "equal"))
    return _table(("", "files", ""), *rows)


def summary(course: Course, comparison: Comparison, *, failed: bool) -> str:
    """Return the last line of the drill."""
    runs = [run for name in comparison.names if (run := Run.parse(name))]
    again = len(course.removed)
    made_again = f", {again} run{'s' if again > 1 else ''} removed and made again" if again else ""
    if comparison.equal:
        outcome = "all equal to the undisturbed run"
    else:
        outcome = f"{len(comparison.different + comparison.missing)} differ from the undisturbed run"
    return (
        f"{len(course.strikes)} kills, {course.starts - 1} restarts of snakemake{made_again}, {len(runs)} files of "
        f"{len(set(runs))} runs and {len(comparison.names) - len(runs)} of data and report: {outcome}"
        f"{'; the drill failed' if failed else ''}"
    )


def _deterministic(results: Path) -> set[str]:
    """Return the deterministic files below a directory; hidden ones are temporary and looked for elsewhere."""
    paths = [path for path in results.rglob("[!.]*") if path.is_file() and path.name not in _APART]
    return {str(path.relative_to(results)) for path in paths}


def _owner(name: str) -> str:
    """Return what a file belongs to: its run, or ``study/data``, ``study/report`` and ``toy``."""
    return str(Run.parse(name) or "/".join(Path(name).parent.parts[:2]))


def _table(*rows: Sequence[object]) -> str:
    """Align rows, the headers among them: tabulate makes columns wider than need be for headers of its own."""
    return str(tabulate(rows, tablefmt="plain", disable_numparse=True))
