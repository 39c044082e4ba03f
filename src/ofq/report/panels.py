"""Panels of a figure and their shared legend, with what a title has to say of the runs behind it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from ofq.config.grid import Grid
from ofq.report.claims.statistics import LEVEL
from ofq.report.style import WIDTH

SMALL = 8  # points
GREY = "#777777"
_KEY, _LETTER = 0.5, 0.068  # inches that a legend's entry takes besides its text, and for each letter
_FEW = 3  # seeds that are all named
_LINE = 0.17  # inches that a line of a legend takes


def seeds(grid: Grid) -> str:
    """Return how many seeds a figure shows, and which: ``n = 3: seeds 0, 1, 2``, or ``n = 8: seeds 0 to 7``."""
    first, last = grid.seeds[0], grid.seeds[-1]
    row = len(grid.seeds) > _FEW and grid.seeds == list(range(first, last + 1))
    return f"n = {len(grid.seeds)}: {f'seeds {first} to {last}' if row else grid.seeds_in_words}"


def panels(columns: int, rows: int, *, height: float, sharey: bool | str = "row") -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes, ``height`` inches a row; the array is always two-dimensional."""
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(WIDTH, height * rows + 0.6),
        squeeze=False,
        sharey=sharey,  # type: ignore[arg-type]
    )
    return figure, axes


def by_place(grid: Grid, *, height: float = 3.0, sharey: bool | str = "row") -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes with a titled panel for each model and bit width of the grid."""
    figure, axes = panels(len(grid.bits), len(grid.models), height=height, sharey=sharey)
    for ax, (model, bits) in zip(axes.flat, grid.places, strict=True):
        ax.set_title(f"{model}, {bits.upper()}")
    return figure, axes


def wrapped(count: int, *, height: float, most: int = 3) -> tuple[Figure, list[Axes]]:
    """Return a figure and ``count`` panels with one vertical axis, at most ``most`` a row, ``height`` inches each."""
    columns = min(most, count)
    figure, axes = panels(columns, -(-count // columns), height=height, sharey=True)
    for ax in list(axes.flat)[count:]:
        ax.set_visible(False)
    return figure, list(axes.flat)[:count]


def sideways(count: int) -> np.ndarray:
    """Return the offsets of ``count`` markers around 0, at most 0.1 apart, so that a gap to the next place is left."""
    return min(0.1, 0.85 / count) * (np.arange(count) - (count - 1) / 2)


def places(ax: Axes, names: Sequence[str]) -> None:
    """Label the places 0, 1, ... of the horizontal axis and shade every other one."""
    ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.grid(visible=False, axis="x")
    for place in range(1, len(names), 2):
        ax.axvspan(place - 0.5, place + 0.5, color="#f2f2f2", linewidth=0, zorder=0)


def finish(figure: Figure, axes: np.ndarray, *, x: str, y: str, title: str) -> None:
    """Name the axes at the left and at the bottom, and draw the title and one legend."""
    for ax in axes[:, 0]:
        ax.set_ylabel(y)
    for ax in axes[-1]:
        ax.set_xlabel(x)
    figure.suptitle(title)
    legend(figure, axes)


def legend(figure: Figure, axes: np.ndarray | Iterable[Axes]) -> None:
    """Draw one legend for all panels below them, each label once, in as many columns as fit the width.

    The figure grows by its height.
    """
    handles = {
        label: handle
        for ax in np.ravel(np.asarray(axes, dtype=object))
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    columns = max(1, min(len(handles), int(WIDTH / (_KEY + _LETTER * max(map(len, handles))))))
    figure.set_figheight(figure.get_figheight() + _LINE * -(-len(handles) // columns))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns, fontsize=SMALL)


def line(ax: Axes, x: pd.Series, mean: pd.Series, sd: pd.Series, **style: Any) -> None:
    """Draw a line with a band of one standard deviation around it; a single seed gets no band."""
    sd = sd.fillna(0)
    ax.plot(x, mean, **{"linewidth": 1.2, "markersize": 4} | style)
    ax.fill_between(x, mean - sd, mean + sd, color=style["color"], alpha=0.2, linewidth=0)


def decade(value: float) -> float:
    """Return the power of ten at or below a positive value: down to it an axis with a place for 0 is logarithmic."""
    return float(10.0 ** np.floor(np.log10(value)))


def half_interval(sd: pd.Series, n: pd.Series) -> np.ndarray:
    """Return half the 95 % interval (Student's) of means of n values with deviation sd; 0 for a single one."""
    half: np.ndarray = stats.t.isf(LEVEL / 2, np.maximum(n - 1, 1)) * sd.fillna(0) / np.sqrt(n)
    return half


def markers(
    ax: Axes, values: pd.DataFrame, order: Sequence[Any], styles: Mapping[str, dict[str, Any]], *, size: float = 6
) -> None:
    """Draw at each place the mean over seeds with its 95 % interval, and each seed as a dot, variants side by side.

    Args:
        ax: the panel.
        values: a row for each run and place, in the columns ``variant``, ``place`` and ``value``.
        order: of the places.
        styles: looks of the variants.
        size: of the markers, in points.
    """
    shifts = sideways(len(styles))
    beside = 0.4 * (shifts[1] - shifts[0]) if len(shifts) > 1 else 0.04  # of a seed's dot to the bar
    common: dict[str, Any] = {"linestyle": "none", "markersize": size, "elinewidth": 1, "capsize": 2}
    for (name, style), shift in zip(styles.items(), shifts, strict=True):
        own = values[values["variant"] == name]
        grouped = own.groupby("place")["value"].agg(["mean", "std", "size"]).reindex(order)
        x = np.arange(len(order)) + shift
        dots = own["place"].map(dict(zip(order, x + beside, strict=True)))
        ax.plot(dots, own["value"], "o", color=style["color"], markersize=size / 2.5, alpha=0.6, markeredgewidth=0)
        yerr = half_interval(grouped["std"], grouped["size"].fillna(1))
        ax.errorbar(x, grouped["mean"], yerr=yerr, label=name, **common, **style)


def only_these(styles: Mapping[str, dict[str, Any]], names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the looks of some variants, in their order."""
    return {name: style for name, style in styles.items() if name in names}
