"""The figures of a study but that of oscillation over training."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ofq.config.grid import Grid
from ofq.report import collect
from ofq.report.looks import in_panels, looks
from ofq.report.panels import GREY, SMALL, markers, only_these, panels, places, seeds, wrapped
from ofq.report.parts.over_training import write_over_training
from ofq.report.style import save
from ofq.runs.paths import Run


def write_figures(grid: Grid) -> None:
    """Draw accuracy, oscillation over training, latent weights and oscillation by layer group, model by model.

    Args:
        grid: the grid whose report is written.

    Raises:
        UserError: a run is missing.
    """
    runs = grid.students
    _accuracy(grid, collect.metrics(runs), collect.metrics(grid.teachers))
    oscillation = collect.records(runs, "oscillation")
    write_over_training(grid, oscillation)
    _layer_groups(grid, oscillation)
    _latent_weights(grid, runs)


def _accuracy(grid: Grid, metrics: pd.DataFrame, teachers: pd.DataFrame) -> None:
    styles = looks(grid)
    rows = [(model, names) for model in grid.models for names in in_panels(grid)]
    figure, axes = panels(1, len(rows), height=3.2, sharey=False)
    for ax, (model, names) in zip(axes.flat, rows, strict=True):
        full = teachers[teachers["model"] == model]["top1"]
        spread = full.std(ddof=1) if len(full) > 1 else 0.0
        low, high = full.mean() - spread, full.mean() + spread
        ax.axhspan(low, high, color="#e4e4e4", linewidth=0, label="full precision, mean ± sd")
        ax.axhline(full.mean(), color=GREY, linestyle="--", linewidth=1)
        here = collect.only(metrics, model=model)
        markers(ax, here.assign(place=here["bits"], value=here["top1"]), grid.bits, only_these(styles, names))
        places(ax, [bits.upper() for bits in grid.bits])
        ax.set_ylim(top=min(100.0, ax.get_ylim()[1]))
        ax.set_ylabel("top-1, %")
        ax.set_title(model)
        _beside(ax)
    axes[-1, 0].set_xlabel("bits of weights (W) and activations (A)")
    figure.suptitle(
        f"{grid}: accuracy on the {grid.data.evaluate} images of {grid.data.title}; {collect.one_image(grid)}\n"
        f"mean with its 95 % interval, a dot for each seed; {seeds(grid)}"
    )
    save(figure, grid.directory / "figures", "accuracy", [*metrics["run"], *teachers["run"]])


def _beside(ax: Axes) -> None:
    """Draw a panel's own legend at its right."""
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=SMALL)


def _layer_groups(grid: Grid, record: pd.DataFrame) -> None:
    styles = looks(grid)
    shares = collect.group_means(collect.last_steps(record), [*collect.KEYS, "run", "group"], ["share"])
    shares = shares.assign(place=shares["group"], value=shares["share"])
    groups = collect.layer_groups(record)
    rows = [(*place, names) for place in grid.places for names in in_panels(grid)]
    figure, axes = panels(1, len(rows), height=1.9)
    for place, (ax, (model, bits, names)) in enumerate(zip(axes.flat, rows, strict=True)):
        here = collect.only(shares, model=model, bits=bits)
        markers(ax, here, groups, only_these(styles, names), size=4)
        places(ax, groups)
        ax.set_ylim(bottom=-0.04 * ax.get_ylim()[1])  # so that markers at 0 are not cut
        ax.set_title(f"{model}, {bits.upper()}")
        ax.set_ylabel("oscillating, %")
        if place < len(in_panels(grid)):
            _beside(ax)
    qk = "" if grid.reestimates else " (qk: product of query and key weights, under QKR)"
    axes[-1, 0].set_xlabel(f"layer group{qk}")
    figure.suptitle(
        f"{grid}: weights with reversal frequency {collect.OFTEN} at the end, by layer group\n"
        f"mean with its 95 % interval, a dot for each seed; {seeds(grid)}"
    )
    save(figure, grid.directory / "figures", "layer_groups", record["run"])


def _latent_weights(grid: Grid, runs: list[Run]) -> None:
    """Draw the density of the final latent weights in code steps, at the grid's first bit width, all seeds together.

    The outermost bins hold the clamped weights; they are told, not drawn, so that the others can be seen.
    """
    styles, bits = looks(grid), grid.bits[0]
    record = collect.records([run for run in runs if run.bits == bits], "weights")
    shown = [(model, name) for model in grid.models for name in grid.quantized]
    figure, axes = wrapped(len(shown), height=1.7)
    shares = {one: _shares(collect.only(record, model=one[0], variant=one[1])) for one in shown}
    for ax, (model, name) in zip(axes, shown, strict=True):
        own, reference = shares[model, name], _reference(grid, name)
        width = float(np.diff(own.index).min())
        inner = own.iloc[1:-1]
        ax.bar(inner.index, inner, width=width, align="edge", color=styles[name]["color"], alpha=0.7)
        if reference != name:
            other = shares[model, reference].iloc[1:-1]
            ax.step(other.index, other, where="post", color="black", linewidth=0.8)
        for threshold in np.arange(np.floor(own.index.min()), np.ceil(own.index.max())) + 0.5:
            ax.axvline(threshold, color="black", linestyle=":", linewidth=1)
        against = "" if reference == name else f"\nline: {reference}"
        ax.set_title(f"{name if len(grid.models) == 1 else f'{model}, {name}'}{against}", fontsize=9)
        told: dict[str, Any] = {"transform": ax.transAxes, "fontsize": SMALL, "va": "top"}
        ax.text(0.01, 0.98, f"{own.iloc[0]:.1f} %", ha="left", **told)
        ax.text(0.99, 0.98, f"{own.iloc[-1]:.1f} %", ha="right", **told)
    most = max(each.iloc[1:-1].max() for each in shares.values())
    axes[0].set_ylim(0, 1.25 * most)
    figure.supylabel("weights in a bin of 0.05 code steps, %")
    figure.supxlabel("latent weight in code steps")
    figure.suptitle(
        f"{grid}, {bits.upper()}: latent weights at the end of the run, all seeds together; {seeds(grid)}\n"
        "dotted: rounding thresholds; in the corners: weights clamped below and above, which are not drawn"
    )
    save(figure, grid.directory / "figures", "latent_weights", record["run"])


def _shares(record: pd.DataFrame) -> pd.Series:
    counts = record.groupby("bin_left")["weights"].sum().sort_index()
    return 100 * counts / counts.sum()


def _reference(grid: Grid, name: str) -> str:
    """Return the variant to draw beside: an annealed one's parent if the grid has it, else the grid's first."""
    parent = grid.params.variant(name).parent
    return parent if parent in grid.variants else grid.quantized[0]
