"""What a drill prints: the kills, the comparison, one line that sums it up."""

from collections.abc import Sequence

from ofq.runs.paths import Run
from tools.drill.compare import Comparison
from tools.drill.course import Course, Strike

_KILLS = ("", "second", "victim", "signal", "in the middle of", "what came after")


def strike_table(strikes: Sequence[Strike]) -> str:
    """One row a kill."""
    rows = [
        (
            str(number),
            f"{strike.seconds:.1f}",
            strike.victim,
            strike.kill.signum.name,
            strike.doing,
            strike.what_came_after,
        )
        for number, strike in enumerate(strikes, start=1)
    ]
    return _aligned([_KILLS, *rows])


def comparison_table(comparison: Comparison) -> str:
    """One row a run, one for the data, one for the report."""
    rows = [("", "files", "")]
    for owner, count in comparison.compared.items():
        run = Run.parse(owner)
        name = run.label if run else owner.split("/")[-1]
        rows.append((name, str(count), _differing(comparison.different.get(owner, []))))
    return _aligned(rows)


def summary(course: Course, comparison: Comparison, *, failed: bool) -> str:
    """The last line."""
    counted = sum(count for owner, count in comparison.compared.items() if Run.parse(owner))
    rest = comparison.compared.total() - counted
    again = len(course.removed)
    made_again = f", {again} run{'s' if again > 1 else ''} removed and made again" if again else ""
    if comparison.equal:
        verdict = "all equal to the undisturbed run"
    else:
        names = [f"{owner}/{name}" for owner, found in comparison.different.items() for name in found]
        verdict = f"{len(names)} differ from the undisturbed run: {', '.join(names) or 'nothing to compare'}"
    return (
        f"{len(course.strikes)} kills, {course.starts - 1} restarts of snakemake{made_again}, {counted} files of "
        f"{comparison.runs} runs and {rest} of data and report: {verdict}{'; the drill failed' if failed else ''}"
    )


def _differing(names: list[str]) -> str:
    return f"different: {', '.join(names)}" if names else "equal"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)
