"""The figure of the toy regression: how latent weight and step move together."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ofq.errors import UserError
from ofq.report.collect import read_table
from ofq.report.style import WIDTH, write
from ofq.runs.paths import TOY

_CASES = {"learned": "learned step (LSQ)", "statistical": "statistical step (StatsQ)"}
_SHOWN = 100  # last steps, after the way to the target
_CODES = {"lower": ("#0072B2", "v"), "upper": ("#D55E00", "^")}  # colours, and markers for a page in grey
_WEIGHT = 0  # its place in the row


def write_toy() -> None:
    """Draw ``results/toy/toy.png`` and ``.svg`` from ``trace.csv``.

    One column has the learned step, the other the statistical one. Each shows one weight of the row in the last hundred
    steps: its path in the plane of latent weight and step, and both over time. Axes of a row have the same span, so
    that sizes can be compared by eye.

    Raises:
        UserError: the trace is missing or damaged.

    Source: OFQ paper, figure 1.
    """
    path = TOY / "trace.csv"
    trace = read_table(path)
    numbers = ["step", "weight", "latent", "value", "code", "scale"]
    whole = {"case", *numbers} <= set(trace.columns)
    if not whole or not all(map(pd.api.types.is_numeric_dtype, trace[numbers].dtypes)):
        raise UserError(f"{path} is no trace of the toy; write it anew: python -m ofq toy")
    figure, axes = plt.subplots(3, len(_CASES), figsize=(WIDTH, 7.5), height_ratios=(2, 1, 1))
    for column, (case, title) in zip(axes.T, _CASES.items(), strict=True):
        way = trace[(trace["case"] == case) & (trace["weight"] == _WEIGHT)].tail(_SHOWN)
        if way.empty:
            raise UserError(f"{path} has no case '{case}'; write it anew: python -m ofq toy")
        _plane(column[0], way)
        column[0].set_title(title)
        for ax, name, label in ((column[1], "latent", "latent weight"), (column[2], "scale", "step size")):
            ax.plot(way["step"], way[name], color="#777777", linewidth=0.8)
            _mark(ax, way, "step", name)
            ax.set_xlabel("optimizer step")
            ax.set_ylabel(label)
    for row in axes:
        _same_span(row, "y")
    _same_span(axes[0], "x")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(f"Toy regression, 3 bits: one weight of a row of eight, the last {_SHOWN} steps")
    write(figure, TOY, "toy", f"Made from {path}")
    print(f"written to {TOY / 'toy'}.png and .svg")


def _plane(ax: Axes, way: pd.DataFrame) -> None:
    ax.plot(way["latent"], way["scale"], color="#aaaaaa", linewidth=0.5)
    _mark(ax, way, "latent", "scale")
    # Levels are multiples of the step; the threshold lies half-way between those of the two codes.
    slope = (way["value"] / way["scale"]).groupby(way["code"]).mean().mean()
    scale = np.array([way["scale"].min(), way["scale"].max()])
    ax.plot(slope * scale, scale, color="black", linestyle=":", linewidth=1, label="rounding threshold")
    ax.set_xlabel("latent weight")
    ax.set_ylabel("step size")


def _mark(ax: Axes, way: pd.DataFrame, x: str, y: str) -> None:
    """Draw a point for each step, in the look of its code."""
    for (which, (colour, marker)), (_, part) in zip(_CODES.items(), way.groupby("code"), strict=False):
        ax.plot(part[x], part[y], marker, markersize=3, color=colour, label=f"{which} code")


def _same_span(axes: np.ndarray, axis: str) -> None:
    limits = [getattr(ax, f"get_{axis}lim")() for ax in axes]
    half = max(high - low for low, high in limits) / 2
    for ax, (low, high) in zip(axes, limits, strict=True):
        getattr(ax, f"set_{axis}lim")((low + high) / 2 - half, (low + high) / 2 + half)
