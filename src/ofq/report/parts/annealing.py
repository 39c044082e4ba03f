"""The figures of annealing step by step: how many weights are left in the band, and where the steps go."""

from typing import Any

import pandas as pd

from ofq.config.grid import Grid
from ofq.report import collect
from ofq.report.looks import looks
from ofq.report.panels import by_place, decade, finish, legend, panels, seeds
from ofq.report.style import save

_SMALLEST = 1e-3  # percent of the step, up to which the axis of its change is linear
_AT_ONE_WIDTH = 3  # panels of a row, where a grid has a single bit width


def left_in_band(record: pd.DataFrame) -> pd.DataFrame:
    """Return the weights that were free to train, in percent of those that annealing governs, as the column ``left``.

    Args:
        record: ``annealing.parquet`` of some runs.

    Returns:
        One row for each run and step.
    """
    sums = record.groupby([*collect.KEYS, "run", "seed", "step"], sort=False)[["free", "weights"]].sum()
    return (100 * sums["free"] / sums["weights"]).rename("left").reset_index()


def write_annealing(grid: Grid) -> None:
    """Draw ``figures/annealing.*`` and ``figures/scale_trajectories.*``, a panel for each model and bit width.

    Args:
        grid: the grid whose report is written.

    Raises:
        UserError: a run's ``annealing.parquet`` is missing or damaged.
    """
    record = collect.records([run for run in grid.students if grid.params.variant(run.variant).cga], "annealing")
    _left(grid, record[record["variant"].isin(grid.bands)])
    _steps(grid, record)


def _left(grid: Grid, record: pd.DataFrame) -> None:
    data = left_in_band(record)
    one = 100 / record.groupby(["run", "step"])["weights"].sum().max()
    styles, count = looks(grid), len(grid.bands)
    figure, axes = by_place(grid, sharey=True)
    for ax, (model, bits) in zip(axes.flat, grid.places, strict=True):
        for place, name in enumerate(grid.bands):
            here = collect.only(data, model=model, bits=bits, variant=name)
            left = here.groupby("step")["left"].agg(["mean", "min", "max"])
            # Variants have their markers at different steps, so that lines that coincide can be told apart.
            every = max(1, len(left) // 10)
            marks, style = (place * every // count, every), styles[name]
            ax.plot(left.index, left["mean"], label=name, markevery=marks, linewidth=1.2, markersize=5, **style)
            ax.fill_between(left.index, left["min"], left["max"], color=style["color"], alpha=0.15, linewidth=0)
        # Logarithmic down to less than one weight; below that there is only 0.
        ax.set_yscale("symlog", linthresh=decade(one))
        ax.set_ylim(bottom=-0.3 * decade(one))
    finish(
        figure,
        axes,
        x="step of annealing",
        y="weights in the band\nround a threshold, %",
        title=f"{grid}: weights that annealing still trains, of those that it governs\n"
        f"mean, and from the least to the most of the seeds; {seeds(grid)}",
    )
    save(figure, grid.directory / "figures", "annealing", record["run"])


def _steps(grid: Grid, record: pd.DataFrame) -> None:
    """Draw how far the steps of the last governed layer move, a line for each seed, a control's behind them."""
    styles = looks(grid)
    last = record[record["layer"] == record.groupby("run")["layer"].transform("last")]
    change = 100 * (last["scale"] / last.groupby("run")["scale"].transform("first") - 1)
    data = last.assign(change=change)
    shown = [(model, name, bits) for model in grid.models for name in grid.bands for bits in grid.bits]
    columns = len(grid.bits) if len(grid.bits) > 1 else min(_AT_ONE_WIDTH, len(shown))
    figure, axes = panels(columns, -(-len(shown) // columns), height=1.6, sharey=True)
    for ax in axes.flat[len(shown) :]:
        ax.set_visible(False)
    for ax, (model, name, bits) in zip(axes.flat, shown, strict=False):
        drawn: dict[str, dict[str, Any]] = {}
        if control := control_of(grid, name):
            drawn[control] = {
                "color": "black",
                "linestyle": "--",
                "label": "control: the same further steps, nothing frozen",
            }
        drawn[name] = {"color": styles[name]["color"], "label": f"{name}: boundary range {grid.bands[name]:g}"}
        for variant, style in drawn.items():
            for _, line in collect.only(data, model=model, bits=bits, variant=variant).groupby("seed"):
                ax.plot(line["step"], line["change"], linewidth=0.8, **style)
        ax.set_yscale("symlog", linthresh=_SMALLEST)
        ax.set_title(f"{f'{model}, ' if len(grid.models) > 1 else ''}{name}, {bits.upper()}", fontsize=9)
    for row in axes:
        row[0].set_ylabel("change, %")
    for ax in axes[-1]:
        ax.set_xlabel("step of annealing")
    figure.suptitle(
        f"{grid}: the quantizer's step of {', '.join(last['layer'].unique())} while it is annealed,\n"
        f"mean over its rows, change from the first step on; a line for each seed; {seeds(grid)}"
    )
    legend(figure, axes)
    save(figure, grid.directory / "figures", "scale_trajectories", record["run"])


def control_of(grid: Grid, name: str) -> str | None:
    """Return the grid's variant that goes on as an annealed one does, with nothing frozen, if there is one."""
    variants = {other: grid.params.variant(other) for other in grid.quantized}
    parent = variants[name].parent
    controls = (
        other for other, each in variants.items() if each.parent == parent and each.cga and each.cga.frozen == "nothing"
    )
    return next(controls, None)
