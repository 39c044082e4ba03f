"""Table and figure of a learning-rate sweep."""

from collections.abc import Iterable

import pandas as pd

from ofq.config.grid import Grid
from ofq.report import collect
from ofq.report.looks import looks
from ofq.report.panels import legend, panels, seeds, sideways
from ofq.report.render import cells, write_table
from ofq.report.style import save
from ofq.runs.paths import FULL_PRECISION, TEACHER


def write_learning_rates(grid: Grid) -> None:
    """Write ``tables/learning_rate.*`` and ``figures/learning_rate.*`` of a study with ``sweep_lr``.

    The rate to choose is the one with the lowest cross-entropy on the evaluation images, which such a study
    takes from the training set. It is marked for each variant and bit width, and for all variants together.

    Args:
        grid: the grid whose report is written.

    Raises:
        UserError: a run is missing.
    """
    frame = collect.metrics(grid.runs)
    frame[["variant", "lr"]] = frame["variant"].str.rsplit("-lr", n=1, expand=True).to_numpy()
    frame["lr"] = frame["lr"].astype(float)
    keys = [*collect.KEYS, "lr"]
    data = collect.spread(frame, ["loss", "top1"], by=keys)
    students = frame[frame["bits"] != FULL_PRECISION].assign(variant="all variants", bits="all")
    together = collect.spread(students, ["loss", "top1"], by=keys)
    data = pd.concat([data, together], ignore_index=True)
    data["best"] = data["loss_mean"] == data.groupby(keys[:-1], sort=False)["loss_mean"].transform("min")
    shown = {
        **data[collect.KEYS],
        "lr": data["lr"].map("{:g}".format),
        "runs": data["n"],
        "cross-entropy": cells(data, "loss", digits=3),
        "top-1 %": cells(data, "top1"),
        "lowest": data["best"].map({True: "✓", False: ""}),
    }
    caption = (
        f"Study {grid.study}: peak learning rates compared on the {grid.data.evaluate} images of {grid.data.title}; "
        f"mean ± standard deviation over {grid.seeds_in_words} (the last rows: over all variants, bits and "
        "seeds). The lowest learning rate of the schedule keeps its ratio to the peak."
    )
    write_table(grid.directory / "tables", "learning_rate", data, shown, list(data["runs"]), caption)
    _figure(grid, data[data["bits"] != "all"], frame["run"])


def _figure(grid: Grid, data: pd.DataFrame, runs: Iterable[str]) -> None:
    styles: dict[str, dict[str, str]] = looks(grid) | {TEACHER: {"color": "black", "marker": "o"}}
    columns = list(dict.fromkeys(data["bits"]))
    figure, axes = panels(len(columns), len(grid.models), height=3.0, sharey=False)
    for row, model in zip(axes, grid.models, strict=True):
        for ax, bits in zip(row, columns, strict=True):
            here = collect.only(data, model=model, bits=bits)
            names = list(dict.fromkeys(here["variant"]))
            for name, shift in zip(names, sideways(len(names)), strict=True):  # bars do not hide one another
                part = here[here["variant"] == name]
                x, yerr = part["lr"] * 2**shift, part["loss_sd"].fillna(0)
                ax.errorbar(x, part["loss_mean"], yerr=yerr, label=name, linewidth=1, capsize=3, **styles[name])
            ax.set_xscale("log")
            rates = sorted(set(data[data["bits"] == bits]["lr"]))
            ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
            ax.minorticks_off()
            ax.set_xlabel("peak learning rate")
            ax.set_title(f"{model}, {'full precision' if bits == FULL_PRECISION else bits.upper()}")
        row[0].set_ylabel(f"cross-entropy, nats,\n{grid.data.evaluate} images")
    legend(figure, axes)
    figure.suptitle(f"{grid}: cross-entropy by peak learning rate, mean ± sd over seeds; {seeds(grid)}")
    save(figure, grid.directory / "figures", "learning_rate", runs)
