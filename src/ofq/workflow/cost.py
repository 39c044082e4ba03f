"""The cost of a study's steps, from the ``run.json`` of its runs."""

import resource
import time
from collections.abc import Iterable
from typing import Literal

import pandas as pd

from ofq.config.grid import all_runs, grids, with_sources
from ofq.config.params import Params
from ofq.errors import counted
from ofq.runs.paths import TEACHER, Run
from ofq.runs.progress import clock
from ofq.runs.published import read_info

_SECONDS: dict[Literal["cpu_seconds", "gpu_seconds"], str] = {
    "cpu_seconds": "CPU-seconds",
    "gpu_seconds": "GPU-seconds",
}
_NEEDED = ("cpu_seconds", "peak_memory_mib")


def summary(runs: Iterable[Run], *, since: float, here: bool = True) -> str:
    """Return wall time, CPU split and the largest job of what this process and its children or its cluster trained.

    CPU seconds outside training (imports, planning, data, tables and figures) are those of this process and its ended
    children minus those that the runs counted themselves.

    Args:
        runs: that they trained; what other processes trained meanwhile is no part of it.
        since: when the first began, in seconds since the epoch.
        here: whether jobs were children of this process; what others spent outside training is not known.
    """
    infos = [read_info(run.files.info, "run", *_NEEDED) for run in runs]
    if not infos:
        return "No run was trained."
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    total = sum(u.ru_utime + u.ru_stime for u in usage)
    training = sum(info["cpu_seconds"] for info in infos)
    largest = max(infos, key=lambda info: info["peak_memory_mib"])
    cards = sum(info.get("gpu_seconds", 0) for info in infos)
    outside = f"{total:.0f} CPU-seconds, {100 * (total - training) / total:.0f} % of them outside training"
    return (
        f"Trained {counted(len(infos), 'run')} in {clock(time.time() - since)}; "
        f"{outside if here else f'{training:.0f} CPU-seconds in training, elsewhere'}; "
        f"{f'{cards:.0f} GPU-seconds; ' if cards else ''}"
        f"peak memory of a job {largest['peak_memory_mib'] / 1024:.2f} GiB ({largest['run']})"
    )


def table(params: Params, study: str) -> str:
    """Return Markdown tables of a study's and its groups' finished runs: by step, and by the target that makes them.

    GPU-seconds stand there if a run had a card: the time that it held a place on one, divided by the card's places.
    """
    main, *others = grids(params, study)
    runs = all_runs(params, study)
    infos = {run: read_info(run.files.info, *_NEEDED) for run in with_sources(params, runs) if run.files.info.exists()}
    if not infos:
        return f"No run of study {study} is finished."
    steps = [TEACHER if run.full_precision else run.variant for run in infos]
    grouped = pd.DataFrame(infos.values()).groupby(steps, sort=False)
    kinds = [kind for kind in _SECONDS if any(kind in info for info in infos.values())]
    medians = [f"{_SECONDS[kind]} a run, median" for kind in kinds]
    lines = _head("step", "runs", *medians, "peak MiB, largest")
    for name, group in grouped:
        spent = [f"{group[kind].median():.1f}" for kind in kinds]
        lines.append(_row(name, len(group), *spent, f"{group['peak_memory_mib'].max():.0f}"))
    if others:
        names = [_SECONDS[kind] for kind in kinds]
        lines += ["", *_head("grid", "runs", *names, "runs beside the main grid", *names)]
        of_the_main_grid = with_sources(params, main.runs)
        for grid in (main, *others):
            finished = [run for run in with_sources(params, grid.runs) if run in infos]
            further = [run for run in finished if run not in of_the_main_grid]
            cells: list[object] = []
            for part in (finished, further):
                sums = [sum(infos[run].get(kind, 0.0) for run in part) for kind in kinds]
                cells += [len(part), *(f"{seconds:.0f}" for seconds in sums)]
            lines.append(_row(grid.group or study, *cells))
    return "\n".join(lines)


def _head(*names: str) -> list[str]:
    return [_row(*names), _row(*["---"] * len(names))]


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
