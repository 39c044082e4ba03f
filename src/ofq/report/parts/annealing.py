"""The figure ``annealing``: how many weights are left in the band during annealing."""

import pandas as pd

from ofq.config.grid import Grid
from ofq.errors import UserError
from ofq.report import collect
from ofq.report.panels import crowded, legend, line, panels
from ofq.report.style import look, save


def bands(grid: Grid) -> dict[str, float]:
    """Return the boundary range in code steps of each variant that anneals with a band; others are left out.

    Raises:
        UserError: the grid has no such variant.
    """
    if not (ranges := grid.bands):
        raise UserError(f"study {grid.study} has no variant here that anneals with a boundary range; name one")
    return ranges


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
    """Draw ``figures/annealing.*``: one line for each variant, one panel for each model and bit width.

    Args:
        grid: the grid whose report is written.

    Raises:
        UserError: no variant anneals with a band, or a run's ``annealing.parquet`` is missing or damaged.
    """
    names = bands(grid)
    looks = look(list(grid.params.variants))
    record = collect.records([run for run in grid.students if run.variant in names], "annealing")
    data = collect.spread(left_in_band(record), ["left"], by=[*collect.KEYS, "step"])
    one = 100 / record.groupby(["run", "step"])["weights"].sum().max()
    columns = 1 if crowded(list(names)) else len(grid.bits)
    figure, axes = panels(columns, len(grid.places) // columns, height=3.0, sharey=True)
    for ax, (model, bits) in zip(axes.flat, grid.places, strict=True):
        for place, name in enumerate(names):
            part = data[(data["model"] == model) & (data["bits"] == bits) & (data["variant"] == name)]
            # Variants have their markers at different steps, so that lines that coincide can be told apart.
            every = max(1, len(part) // 10)
            marks = (place * every // len(names), every)
            line(ax, part["step"], part["left_mean"], part["left_sd"], looks[name], label=name, markevery=marks)
        # Logarithmic down to one weight; below that there is only 0.
        ax.set_yscale("symlog", linthresh=one)
        ax.set_ylim(bottom=-0.2 * one)
        ax.set_title(f"{model}, {bits.upper()}")
    for ax in axes[:, 0]:
        ax.set_ylabel("weights in the band\nround a threshold, %")
    for ax in axes[-1]:
        ax.set_xlabel("step of annealing")
    figure.suptitle(
        f"{grid.study}: weights that annealing still trains, mean ± sd over {grid.seeds_in_words}", fontsize=10
    )
    legend(figure, axes)
    save(figure, grid.directory / "figures", "annealing", record["run"])
