"""Annealing with different boundary ranges: the table ``boundary_range`` and the figure ``scale_trajectories``."""

import pandas as pd

from ofq.config.grid import Grid
from ofq.report import collect
from ofq.report.panels import looks, wrapped
from ofq.report.paper import BOUNDARY_RANGE
from ofq.report.parts.annealing import left_in_band
from ofq.report.render import cells, write_table
from ofq.report.style import save

_METRICS = ["top1", "loss", "osc_share", "left"]


def write_boundary_range(grid: Grid) -> None:
    """Write ``tables/boundary_range.*`` and ``figures/scale_trajectories.*``, from the narrowest band to the widest.

    Args:
        grid: the grid whose report is written.

    Raises:
        UserError: a file of a run is missing or damaged.
    """
    ranges = dict(sorted(grid.bands.items(), key=lambda item: item[1]))
    runs = [run for run in grid.students if run.variant in ranges]
    runs.sort(key=lambda run: list(ranges).index(run.variant))
    record = collect.records(runs, "annealing")
    _table(grid, ranges, collect.metrics(runs, "osc_share"), record)
    _figure(grid, ranges, record)


def _table(grid: Grid, ranges: dict[str, float], metrics: pd.DataFrame, record: pd.DataFrame) -> None:
    frame = metrics.merge(left_in_band(collect.last_steps(record))[["run", "left"]], on="run")
    data = collect.in_order(collect.spread(frame, _METRICS), grid)
    data.insert(3, "boundary_range", data["variant"].map(ranges))
    shown = {
        **data[collect.KEYS],
        "boundary range": data["boundary_range"].map("{:g}".format),
        "seeds": data["n"],
        "top-1 %": cells(data, "top1"),
        "cross-entropy": cells(data, "loss", digits=3),
        "oscillating %": cells(data, "osc_share"),
        "left in the band %": cells(data, "left", digits=3),
    }
    caption = (
        f"Study {grid.study}: annealing with bands of different width; mean ± standard deviation over "
        f"{grid.seeds_in_words}, on the {grid.data.evaluate} images of {grid.data.title}. Boundary range: "
        "half-width of the band round each rounding threshold, in code steps; weights outside it are frozen. Left in "
        f"the band: weights that still train at the last step, of those that annealing governs. {BOUNDARY_RANGE}"
    )
    write_table(grid.directory / "tables", "boundary_range", data, shown, list(data["runs"]), caption)


def _figure(grid: Grid, ranges: dict[str, float], record: pd.DataFrame) -> None:
    styles = looks(grid)
    rows = record[record["layer"] == record.groupby("run")["layer"].transform("last")]
    layers = ", ".join(rows["layer"].unique())
    change = 100 * (rows["scale"] / rows.groupby("run")["scale"].transform("first") - 1)
    data = rows.assign(change=change)
    several = len(grid.models) * len(grid.bits) > 1
    shown = [(*place, name) for place in grid.places for name in ranges]
    figure, axes = wrapped(len(shown), height=2.2)
    for ax, (model, bits, name) in zip(axes, shown, strict=True):
        for _, line in collect.only(data, model=model, bits=bits, variant=name).groupby("seed"):
            ax.plot(line["step"], line["change"], color=styles[name]["color"], linewidth=0.8)
        variant = f"{name}, " if list(ranges.values()).count(ranges[name]) > 1 else ""
        ax.set_title(f"{variant}BR {ranges[name]:g}" + (f"\n{model}, {bits.upper()}" if several else ""))
    figure.supylabel("step of the quantizer, change from its start, %")
    figure.supxlabel("step of annealing")
    where = "" if several else f", {grid.models[0]} {grid.bits[0].upper()}"
    figure.suptitle(
        f"{grid.study}{where}: the mean step of {layers} while it is annealed,\nby boundary range (BR, in code steps); "
        f"one line a seed, {grid.seeds_in_words}"
    )
    save(figure, grid.directory / "figures", "scale_trajectories", record["run"])
