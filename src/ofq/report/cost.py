"""What the steps of a study cost, from the ``run.json`` of its runs."""

import resource
import time

import pandas as pd

from ofq.files import read_json
from ofq.params import Params
from ofq.paths import FULL_PRECISION, RESULTS, TEACHER, Run


def summary(params: Params, *, since: float) -> str:
    """Wall time, CPU split and the largest job of what was trained since a moment (seconds since the epoch).

    CPU seconds outside training are those of this process and its ended children less those that the runs
    counted themselves: imports, planning, data, tables and figures.
    """
    infos = [
        read_json(path)
        for path in RESULTS.glob("*/*/*/*/seed*/run.json")
        if path.stat().st_mtime >= since and Run.parse(str(path)) is not None
    ]
    if not infos:
        return "No run was trained."
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    total = sum(u.ru_utime + u.ru_stime for u in usage)
    training = sum(info["cpu_seconds"] for info in infos)
    largest = max(infos, key=lambda info: info["peak_memory_mib"])
    return (
        f"Trained {len(infos)} runs in {_minutes(time.time() - since)} min; {total:.0f} CPU-seconds, "
        f"{100 * (total - training) / total:.0f} % of them outside training; "
        f"peak memory of a job {largest['peak_memory_mib'] / 1024:.2f} GiB ({largest['run']})"
    )


def table(params: Params, study: str) -> str:
    """Markdown table of a study's finished runs by step: how many, CPU seconds and peak memory of one."""
    params.study_named(study)
    rows = []
    for run in sorted({run.teacher for run in params.runs(study)} | set(params.runs(study))):
        if run.files.info.exists():
            info = read_json(run.files.info)
            step = TEACHER if run.bits == FULL_PRECISION else run.variant
            rows.append({"step": step, **{key: info[key] for key in ("cpu_seconds", "peak_memory_mib")}})
    if not rows:
        return f"No run of study {study} is finished."
    grouped = pd.DataFrame(rows).groupby("step", sort=False)
    lines = ["| step | runs | CPU-seconds a run, median | peak MiB, largest |", "| --- | --- | --- | --- |"]
    for name, group in grouped:
        lines.append(
            f"| {name} | {len(group)} | {group['cpu_seconds'].median():.1f} | {group['peak_memory_mib'].max():.0f} |"
        )
    return "\n".join(lines)


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
