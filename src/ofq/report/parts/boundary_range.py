"""Annealing with different boundary ranges: the table and the figure ``boundary_range``."""

import pandas as pd
from matplotlib.axes import Axes

from ofq.config.grid import Grid
from ofq.report import collect
from ofq.report.differences import decided, how_marked, marked
from ofq.report.looks import looks
from ofq.report.panels import SMALL, decade, half_interval, legend, panels, seeds
from ofq.report.paper import BOUNDARY_RANGE
from ofq.report.parts.annealing import left_in_band
from ofq.report.render import cells, write_table
from ofq.report.style import save

_METRICS = ["top1", "loss", "osc_share", "left"]
_SHOWN = {"top1": "top-1, %", "osc_share": "oscillating, %", "left": "left in\nthe band, %"}


def write_boundary_range(grid: Grid) -> None:
    """Write ``tables/boundary_range.*`` and ``figures/boundary_range.*``, from the narrowest band to the widest.

    Args:
        grid: the grid whose report is written.

    Raises:
        UserError: a file of a run is missing or damaged.
    """
    ranges = dict(sorted(grid.bands.items(), key=lambda item: item[1]))
    runs = [run for run in grid.students if run.variant in ranges]
    runs.sort(key=lambda run: list(ranges).index(run.variant))
    record = collect.records(runs, "annealing")
    left = left_in_band(collect.last_steps(record))[["run", "left"]]
    frame = collect.metrics(runs, "osc_share").merge(left, on="run")
    _table(grid, ranges, frame)
    _figure(grid, ranges, frame)


def _table(grid: Grid, ranges: dict[str, float], frame: pd.DataFrame) -> None:
    data = collect.in_order(collect.spread(frame, _METRICS), grid)
    data.insert(3, "boundary_range", data["variant"].map(ranges))
    most, least = decided(frame, "top1"), decided(frame, "loss", lowest=True)
    shown = {
        **data[collect.KEYS],
        "boundary range": data["boundary_range"].map("{:g}".format),
        "seeds": data["n"],
        "top-1 %": marked(data, cells(data, "top1"), most),
        "cross-entropy": marked(data, cells(data, "loss", digits=3), least),
        "oscillating %": cells(data, "osc_share"),
        "left in the band %": cells(data, "left", digits=3),
    }
    caption = (
        f"As the paper's Table 4. Study {grid}: annealing with bands of different width; mean ± standard deviation "
        f"over {grid.seeds_in_words}, on the {grid.data.evaluate} images of {grid.data.title}. "
        f"{how_marked(most, least)} Boundary range: "
        "half-width of the band round each rounding threshold, in code steps; weights outside it are frozen. Left in "
        f"the band: weights that still train at the last step, of those that annealing governs. {BOUNDARY_RANGE}"
    )
    write_table(grid.directory / "tables", "boundary_range", data, shown, list(data["runs"]), caption)


def _figure(grid: Grid, ranges: dict[str, float], frame: pd.DataFrame) -> None:
    styles = looks(grid)
    rows = [(model, quantity) for model in grid.models for quantity in _SHOWN]
    figure, axes = panels(len(grid.bits), len(rows), height=1.9)
    for row, (model, quantity) in zip(axes, rows, strict=True):
        for ax, bits in zip(row, grid.bits, strict=True):
            here = collect.only(frame, model=model, bits=bits)
            data = collect.spread(here, [quantity]).set_index("variant")
            for name, value in ranges.items():
                dots, own = here[here["variant"] == name][quantity], data.loc[name]
                ax.plot([1.05 * value] * len(dots), dots, "o", color=styles[name]["color"], markersize=2.5, alpha=0.6)
                half = half_interval(data[f"{quantity}_sd"], data["n"])[name]
                ax.errorbar(
                    value, own[f"{quantity}_mean"], yerr=half, label=name, capsize=2, linestyle="none", **styles[name]
                )
            _by_range(ax, sorted(set(ranges.values())))
            if quantity == "top1":
                ax.set_title(f"{model}, {bits.upper()}", fontsize=9)
        row[0].set_ylabel(_SHOWN[quantity])
        if quantity != "top1" and (frame[quantity] > 0).any():  # logarithmic, with a place for 0
            least = decade(frame[quantity][frame[quantity] > 0].min())
            row[0].set_yscale("symlog", linthresh=least)
            row[0].set_ylim(-0.3 * least, 2 * frame[quantity].max())
    for ax in axes[-1]:
        ax.set_xlabel("boundary range, code steps")
    figure.suptitle(
        f"{grid}: annealing by the width of its band; {collect.one_image(grid)}\n"
        f"mean with its 95 % interval, a dot for each seed; {seeds(grid)}"
    )
    legend(figure, axes)
    save(figure, grid.directory / "figures", "boundary_range", frame["run"])


def _by_range(ax: Axes, values: list[float]) -> None:
    """Let the horizontal axis be logarithmic, with a place for 0 if that is a range, and ticks at the ranges."""
    if values[0]:
        ax.set_xscale("log")
    else:
        ax.set_xscale("symlog", linthresh=values[1])
    ax.set_xticks(values, [f"{value:g}" for value in values], fontsize=SMALL, rotation=45)
    ax.set_xticks([], minor=True)
    least, most = values[0], values[-1]
    ax.set_xlim(least / 1.4 if least else -values[1] / 4, 1.4 * most)
