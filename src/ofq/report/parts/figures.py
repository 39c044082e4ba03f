"""The figures of a study."""

import numpy as np
import pandas as pd

from ofq.config.grid import Grid
from ofq.report import collect
from ofq.report.panels import by_place, crowded, finish, legend, line, looks, markers, panels, places, wrapped
from ofq.report.parts.plots_data import curves, over_training
from ofq.report.style import save
from ofq.runs.files import write_text
from ofq.runs.paths import Run


def write_figures(grid: Grid) -> None:
    """Draw accuracy, oscillation over training, latent weights and oscillation by layer group, model by model.

    A study of several models gets one row of panels for each.

    Args:
        grid: the grid whose report is written.

    Raises:
        UserError: a run is missing.
    """
    runs = grid.students
    metrics = collect.metrics(runs)
    _accuracy(grid, metrics, collect.metrics(grid.teachers))
    oscillation = collect.records(runs, "oscillation")
    _over_training(grid, oscillation)
    _layer_groups(grid, oscillation)
    _latent_weights(grid, runs)


def _accuracy(grid: Grid, metrics: pd.DataFrame, teachers: pd.DataFrame) -> None:
    shown = looks(grid)
    many = crowded(shown)
    columns = 1 if many else len(grid.models)
    figure, axes = panels(columns, len(grid.models) // columns, height=4.4 if many else 3.6, sharey=False)
    data = collect.spread(metrics, ["top1"]).set_index("bits")
    for ax, model in zip(axes.flat, grid.models, strict=True):
        full = teachers[teachers["model"] == model]["top1"]
        ax.axhline(full.mean(), color="#777777", linestyle="--", linewidth=1, label="full precision")
        markers(ax, collect.only(data, model=model), "top1", grid.bits, shown, markersize=6, capsize=3)
        places(ax, [bits.upper() for bits in grid.bits])
        ax.set_xlabel("bits of weights (W) and activations (A)")
        ax.set_ylabel(f"top-1 on {grid.data.evaluate} images, %")
        ax.set_title(model)
    figure.suptitle(f"{grid.study}: accuracy, mean ± sd over {grid.seeds_in_words}")
    legend(figure, axes)
    save(figure, grid.directory / "figures", "accuracy", [*metrics["run"], *teachers["run"]])


def _over_training(grid: Grid, record: pd.DataFrame) -> None:
    shown = looks(grid)
    data = over_training(grid, record)
    write_text(grid.directory / "figures" / "oscillation.csv", curves(data).to_csv(index=False))
    figure, axes = by_place(grid, shown)
    for ax, (model, bits) in zip(axes.flat, grid.places, strict=True):
        for name, style in shown.items():
            part = collect.only(data, model=model, bits=bits, variant=name)
            line(ax, part["step"], part["share_mean"], part["share_sd"], label=name, **style)
    finish(
        figure,
        axes,
        x="optimizer step",
        y=f"weights with reversal\nfrequency {collect.OFTEN}, %",
        title=f"{grid.study}: oscillation over training, mean ± sd over {grid.seeds_in_words}",
    )
    save(figure, grid.directory / "figures", "oscillation", record["run"])


def _layer_groups(grid: Grid, record: pd.DataFrame) -> None:
    shown = looks(grid)
    many = crowded(shown)
    figure, axes = panels(1, len(grid.places), height=2.6 if many else 2.0)
    shares = collect.group_means(collect.last_steps(record), [*collect.KEYS, "run", "group"], ["share"])
    data = collect.spread(shares, ["share"], by=[*collect.KEYS, "group"]).set_index("group")
    groups = collect.layer_groups(record)
    for ax, (model, bits) in zip(axes[:, 0], grid.places, strict=True):
        rows = collect.only(data, model=model, bits=bits)
        markers(ax, rows, "share", groups, shown, markersize=4 if many else 5, capsize=0 if many else 2)
        places(ax, groups)
        ax.set_ylim(bottom=-0.04 * ax.get_ylim()[1])  # so that markers at 0 are not cut
        ax.set_title(f"{model}, {bits.upper()}")
    finish(
        figure,
        axes,
        x="layer group (qk: product of query and key weights, under QKR)",
        y="oscillating, %",
        title=f"{grid.study}: weights with reversal frequency {collect.OFTEN} at the end, "
        f"mean ± sd over {grid.seeds_in_words}",
    )
    save(figure, grid.directory / "figures", "layer_groups", record["run"])


def _latent_weights(grid: Grid, runs: list[Run]) -> None:
    """Draw the density of the final latent weights in code steps, at the grid's first bit width, all seeds together."""
    styles = looks(grid)
    bits = grid.bits[0]
    record = collect.records([run for run in runs if run.bits == bits], "weights")
    shown = [(model, name) for model in grid.models for name in styles]
    figure, axes = wrapped(len(shown), height=1.8)
    for ax, (model, name) in zip(axes, shown, strict=True):
        counts = collect.only(record, model=model, variant=name).groupby("bin_left")["weights"].sum()
        width, colour = float(np.diff(np.sort(counts.index)).min()), styles[name]["color"]
        ax.bar(counts.index, 100 * counts / counts.sum(), width=width, align="edge", color=colour, alpha=0.6)
        low, high = int(np.floor(counts.index.min())), int(np.ceil(counts.index.max()))
        for threshold in np.arange(low, high) + 0.5:
            ax.axvline(threshold, color="black", linestyle=":", linewidth=1)
        ax.set_title(name if len(grid.models) == 1 else f"{model}, {name}")
    figure.supylabel("weights, %")
    figure.supxlabel("latent weight in code steps")
    figure.suptitle(
        f"{grid.study}, {bits.upper()}: latent weights at the end of the run, {grid.seeds_in_words} together\n"
        "dotted: rounding thresholds; the outermost bars hold the clamped weights"
    )
    save(figure, grid.directory / "figures", "latent_weights", record["run"])
