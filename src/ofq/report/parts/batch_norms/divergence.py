"""Table and figure ``divergence``: how far running statistics of batch norms are from re-estimated ones."""

from itertools import product

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, MaxNLocator

from ofq.config.grid import Grid
from ofq.report import collect
from ofq.report.panels import finish, panels, seeds
from ofq.report.render import cells, write_table
from ofq.report.style import save

_COLOURS = ["#E69F00", "#0072B2", "#009E73", "#CC79A7"]
_MARKERS = ["s", "o", "^", "D"]
_DIGITS = 4
_DECADES = 12  # that the axis may have, each with its line


def write_divergence(grid: Grid) -> None:
    """Write ``tables/divergence.*`` and draw ``figures/divergence.*``, both of the last step of the runs.

    Args:
        grid: the grid whose report is written.

    Raises:
        UserError: a run is missing, or its statistics were not re-estimated.
    """
    last = collect.last_steps(collect.records(grid.students, "oscillation", "channels", "dead", "kl_mean"))
    behind = last[last["channels"].notna()]  # of layers without a batch norm behind them there is nothing to say
    _write_table(grid, behind)
    _draw(grid, behind)


def _write_table(grid: Grid, layers: pd.DataFrame) -> None:
    weighted = layers.assign(kl=layers["kl_mean"] * layers["channels"])
    groups = weighted.groupby([*collect.KEYS, "run", "group"], sort=False)
    frame = groups.agg(
        kl=("kl", "sum"), channels=("channels", "sum"), kl_largest=("kl_mean", "max"), dead=("dead", "sum")
    ).reset_index()
    frame["kl"] /= frame["channels"]
    data = collect.spread(frame, ["kl", "kl_largest", "dead"], by=[*collect.KEYS, "group"])
    shown = {
        **data[[*collect.KEYS, "group"]],
        "seeds": data["n"],
        "KL, nats": cells(data, "kl", digits=_DIGITS),
        "KL of its largest layer": cells(data, "kl_largest", digits=_DIGITS),
        "dead channels": cells(data, "dead", digits=1),
    }
    caption = (
        f"Study {grid}: Kullback-Leibler divergence of re-estimated statistics of batch norms from running ones at the "
        f"end, by the group of the layers before them: mean over channels, and over those of the layer where it is "
        f"largest; mean ± standard deviation over {grid.seeds_in_words}. Dead: channels whose weights are all rounded "
        "to 0. Where codes are held statistics are off without oscillation too; at 8 bits codes change, by little."
    )
    write_table(grid.directory / "tables", "divergence", data, shown, list(data["runs"]), caption)


def _draw(grid: Grid, layers: pd.DataFrame) -> None:
    """Draw layers by their order, a row of panels for each model and variant and a column for each bit width."""
    rows, groups = list(product(grid.models, grid.quantized)), collect.layer_groups(layers)
    looks = {
        group: {"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKERS[place % len(_MARKERS)]}
        for place, group in enumerate(groups)
    }
    figure, axes = panels(len(grid.bits), len(rows), height=1.6, sharey="all")
    for row, (model, name) in zip(axes, rows, strict=True):
        for ax, bits in zip(row, grid.bits, strict=True):
            here = collect.only(layers, model=model, bits=bits, variant=name)
            values = here.groupby(["layer", "group"], sort=False)["kl_mean"].agg(["mean", "min", "max"]).reset_index()
            for group, look in looks.items():
                own = values[values["group"] == group]
                ends = np.abs(own[["min", "max"]].sub(own["mean"], axis=0).to_numpy().T)  # (2, layers)
                ax.errorbar(own.index + 1, own["mean"], yerr=ends, label=group, ls="none", ms=4, elinewidth=1, **look)
            several = f"{model}, " if len(grid.models) > 1 else ""
            ax.set_title(f"{several}{name}, {bits.upper()}", fontsize=9)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(numticks=_DECADES))
    title = (
        f"{grid}: divergence of re-estimated statistics of batch norms from running ones at the end, by layer\n"
        f"mean over channels and seeds, with the least and the most of a seed; {seeds(grid)}"
    )
    finish(figure, axes, x="low-bit layer, from first to last", y="KL, nats", title=title)
    save(figure, grid.directory / "figures", "divergence", layers["run"])
