"""The figures of a study."""

import numpy as np
import pandas as pd

from ofq.config.grid import Grid
from ofq.report import collect
from ofq.report.panels import crowded, legend, line, panels, places, sideways, variants, wrapped
from ofq.report.parts.plots_data import curves, over_training
from ofq.report.style import look, save
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
    looks = look(list(grid.params.variants))
    names = variants(grid)
    many = crowded(names)
    columns = 1 if many else len(grid.models)
    figure, axes = panels(columns, len(grid.models) // columns, height=4.4 if many else 3.6, sharey=False)
    data = collect.spread(metrics, ["top1"])
    for ax, model in zip(axes.flat, grid.models, strict=True):
        full = teachers[teachers["model"] == model]["top1"]
        ax.axhline(full.mean(), color="#777777", linestyle="--", linewidth=1, label="full precision")
        for name, shift in zip(names, sideways(len(names)), strict=True):
            rows = data[(data["model"] == model) & (data["variant"] == name)].set_index("bits").reindex(grid.bits)
            style = looks[name] | {"linestyle": "none", "markersize": 6, "capsize": 3}
            x = np.arange(len(grid.bits)) + shift
            ax.errorbar(x, rows["top1_mean"], yerr=rows["top1_sd"].fillna(0), label=name, **style)
        places(ax, [bits.upper() for bits in grid.bits])
        ax.set_xlabel("bits of weights (W) and activations (A)")
        ax.set_ylabel(f"top-1 on {grid.data.evaluate} images, %")
        ax.set_title(model)
    figure.suptitle(f"{grid.study}: accuracy, mean ± sd over {grid.seeds_in_words}", fontsize=10)
    legend(figure, axes)
    save(figure, grid.directory / "figures", "accuracy", [*metrics["run"], *teachers["run"]])


def _over_training(grid: Grid, record: pd.DataFrame) -> None:
    looks = look(list(grid.params.variants))
    names = variants(grid)
    columns = 1 if crowded(names) else len(grid.bits)
    figure, axes = panels(columns, len(grid.places) // columns, height=3.0)
    data = over_training(grid, record)
    write_text(grid.directory / "figures" / "oscillation.csv", curves(data).to_csv(index=False))
    for ax, (model, bits) in zip(axes.flat, grid.places, strict=True):
        for name in names:
            part = data[(data["model"] == model) & (data["bits"] == bits) & (data["variant"] == name)]
            line(ax, part["step"], part["share_mean"], part["share_sd"], looks[name], label=name)
        ax.set_title(f"{model}, {bits.upper()}")
    for ax in axes[:, 0]:
        ax.set_ylabel(f"weights with reversal\nfrequency {collect.OFTEN}, %")
    for ax in axes[-1]:
        ax.set_xlabel("optimizer step")
    figure.suptitle(f"{grid.study}: oscillation over training, mean ± sd over {grid.seeds_in_words}", fontsize=10)
    legend(figure, axes)
    save(figure, grid.directory / "figures", "oscillation", record["run"])


def _layer_groups(grid: Grid, record: pd.DataFrame) -> None:
    looks = look(list(grid.params.variants))
    names = variants(grid)
    many = crowded(names)
    figure, axes = panels(1, len(grid.places), height=2.6 if many else 2.0)
    last = record[record["step"] == record.groupby("run")["step"].transform("max")]
    shares = collect.group_means(last, [*collect.KEYS, "run", "group"], ["share"])
    data = collect.spread(shares, ["share"], by=[*collect.KEYS, "group"])
    groups = collect.layer_groups(record)
    for ax, (model, bits) in zip(axes[:, 0], grid.places, strict=True):
        for name, shift in zip(names, sideways(len(names)), strict=True):
            part = data[(data["model"] == model) & (data["bits"] == bits) & (data["variant"] == name)]
            part = part.set_index("group").reindex(groups)
            style = looks[name] | {"linestyle": "none", "markersize": 4 if many else 5, "capsize": 0 if many else 2}
            x = np.arange(len(groups)) + shift
            ax.errorbar(x, part["share_mean"], yerr=part["share_sd"].fillna(0), label=name, **style)
        places(ax, groups)
        ax.set_ylim(bottom=-0.04 * ax.get_ylim()[1])  # so that markers at 0 are not cut
        ax.set_ylabel("oscillating, %")
        ax.set_title(f"{model}, {bits.upper()}")
    axes[-1, 0].set_xlabel("layer group (qk: product of query and key weights, under QKR)")
    figure.suptitle(
        f"{grid.study}: weights with reversal frequency {collect.OFTEN} at the end, "
        f"mean ± sd over {grid.seeds_in_words}",
        fontsize=10,
    )
    legend(figure, axes)
    save(figure, grid.directory / "figures", "layer_groups", record["run"])


def _latent_weights(grid: Grid, runs: list[Run]) -> None:
    """Draw the density of the final latent weights in code steps, at the grid's first bit width, all seeds together."""
    looks = look(list(grid.params.variants))
    bits = grid.bits[0]
    record = collect.records([run for run in runs if run.bits == bits], "weights")
    shown = [(model, name) for model in grid.models for name in variants(grid)]
    figure, axes = wrapped(len(shown), height=1.8)
    for ax, (model, name) in zip(axes, shown, strict=True):
        part = record[(record["model"] == model) & (record["variant"] == name)]
        counts = part.groupby("bin_left")["weights"].sum()
        width = float(np.diff(np.sort(counts.index)).min())
        ax.bar(
            counts.index, 100 * counts / counts.sum(), width=width, align="edge", color=looks[name]["color"], alpha=0.6
        )
        low, high = int(np.floor(counts.index.min())), int(np.ceil(counts.index.max()))
        for threshold in np.arange(low, high) + 0.5:
            ax.axvline(threshold, color="black", linestyle=":", linewidth=1)
        ax.set_title(name if len(grid.models) == 1 else f"{model}, {name}")
    figure.supylabel("weights, %", fontsize=10)
    figure.supxlabel("latent weight in code steps", fontsize=10)
    figure.suptitle(
        f"{grid.study}, {bits.upper()}: latent weights at the end of the run, {grid.seeds_in_words} together\n"
        "dotted: rounding thresholds; the outermost bars hold the clamped weights",
        fontsize=10,
    )
    save(figure, grid.directory / "figures", "latent_weights", record["run"])
