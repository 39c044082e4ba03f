"""The figure ``annealing``: how many weights are left in the band during annealing."""

import pandas as pd

from ofq.config.grid import Grid
from ofq.report import collect
from ofq.report.panels import by_place, finish, line, looks
from ofq.report.style import save


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
        UserError: a run's ``annealing.parquet`` is missing or damaged.
    """
    record = collect.records([run for run in grid.students if run.variant in grid.bands], "annealing")
    data = collect.spread(left_in_band(record), ["left"], by=[*collect.KEYS, "step"])
    one = 100 / record.groupby(["run", "step"])["weights"].sum().max()
    styles, count = looks(grid), len(grid.bands)
    figure, axes = by_place(grid, grid.bands, sharey=True)
    for ax, (model, bits) in zip(axes.flat, grid.places, strict=True):
        for place, name in enumerate(grid.bands):
            part = collect.only(data, model=model, bits=bits, variant=name)
            # Variants have their markers at different steps, so that lines that coincide can be told apart.
            every = max(1, len(part) // 10)
            marks = (place * every // count, every)
            line(ax, part["step"], part["left_mean"], part["left_sd"], label=name, markevery=marks, **styles[name])
        # Logarithmic down to one weight; below that there is only 0.
        ax.set_yscale("symlog", linthresh=one)
        ax.set_ylim(bottom=-0.2 * one)
    finish(
        figure,
        axes,
        x="step of annealing",
        y="weights in the band\nround a threshold, %",
        title=f"{grid.study}: weights that annealing still trains, mean ± sd over {grid.seeds_in_words}",
    )
    save(figure, grid.directory / "figures", "annealing", record["run"])
