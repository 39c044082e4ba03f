"""What the first page of ``snakemake --report`` says of a study: its verdicts, and itself at a glance."""

from pathlib import Path
from typing import Any

from ofq.config.grid import Grid, all_runs, grids, with_sources
from ofq.config.params import Params
from ofq.report.claims.terms import load
from ofq.runs.paths import record_dir
from ofq.runs.published import read_info

_VERDICTS = Path("figures/verdicts.svg")


def landing(params: Params) -> dict[str, Any]:
    """Return what ``report/workflow.rst`` shows of the default study.

    Returns:
        ``figure``: the study's own verdicts, or else those of the committed record, or None; ``recorded``: whether they
        are the record's; ``glance``: names and values in words.

    Raises:
        UserError: ``claims.yaml`` is wrong, or a file of a run is damaged.
    """
    main, *groups = grids(params, params.study)
    own = main.directory / _VERDICTS
    recorded = record_dir(main.directory) / _VERDICTS
    figure = next((path for path in (own, recorded) if path.exists()), None)
    return {"figure": figure, "recorded": figure == recorded, "glance": _glance(params, main, groups)}


def _glance(params: Params, main: Grid, groups: list[Grid]) -> dict[str, str]:
    runs = with_sources(params, all_runs(params, main.study))
    infos = [read_info(run.files.info, "machine", "cpu_seconds") for run in runs if run.files.info.exists()]
    machines = dict.fromkeys(f"{info['machine']['cpu']}, {info['machine']['cores']} cores" for info in infos)
    cards = dict.fromkeys(info["device"] for info in infos if info.get("device", "cpu") != "cpu")
    cost = f"{sum(info['cpu_seconds'] for info in infos) / 3600:.1f} CPU-hours"
    if seconds := sum(info.get("gpu_seconds", 0) for info in infos):
        cost += f", {seconds / 3600:.1f} GPU-hours"
    return {
        "study": main.study,
        "scope": load(params).scope(main.study) or "not stated in claims.yaml",
        "images": f"{main.data.evaluate} images of {main.data.title}",
        "models": ", ".join(main.models),
        "bit widths": ", ".join(main.bits),
        "seeds": ", ".join(map(str, main.seeds)),
        "groups": ", ".join(f"{grid.group} ({len(grid.seeds)} seeds)" for grid in groups) or "none",
        "finished runs": f"{len(infos)} of {len(runs)}, groups that are made by name included",
        "hardware": "; ".join([*machines, *cards]) or "none yet",
        "cost of the finished runs": cost,
    }
