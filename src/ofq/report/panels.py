"""Panels of a figure and their shared legend, laid out so that about fifteen variants stay legible."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ofq.config.grid import Grid
from ofq.report.style import WIDTH, look

_CROWDED = 8  # with more variants than this, panels do not stand side by side
_SMALL = 8  # points
_KEY, _LETTER = 0.5, 0.068  # inches that a legend's entry takes besides its text, and for each letter


def crowded(names: Collection[str]) -> bool:
    """Return whether there are so many variants that a panel needs the whole width."""
    return len(names) > _CROWDED


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


def by_place(grid: Grid, names: Collection[str], *, sharey: bool | str = "row") -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes with a titled panel for each model and bit width of the grid."""
    columns = 1 if crowded(names) else len(grid.bits)
    figure, axes = panels(columns, len(grid.places) // columns, height=3.0, sharey=sharey)
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


def legend(figure: Figure, axes: np.ndarray | Sequence[Axes]) -> None:
    """Draw one legend for all panels below them, each label once, in as many columns as fit the width."""
    handles = {
        label: handle
        for ax in np.ravel(np.asarray(axes, dtype=object))
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    column = _KEY + _LETTER * max(map(len, handles))
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=max(1, min(len(handles), int(WIDTH / column))),
        fontsize=_SMALL,
    )


def looks(grid: Grid) -> dict[str, dict[str, Any]]:
    """Return the look of each of the grid's variants, in the order of ``params.yaml``."""
    listed = grid.variants
    return {name: each for name, each in look(list(grid.params.variants)).items() if name in listed}


def line(ax: Axes, x: pd.Series, mean: pd.Series, sd: pd.Series, **style: Any) -> None:
    """Draw a line with a band of one standard deviation around it; a single seed gets no band."""
    sd = sd.fillna(0)
    ax.plot(x, mean, linewidth=1.2, markersize=4, **style)
    ax.fill_between(x, mean - sd, mean + sd, color=style["color"], alpha=0.2, linewidth=0)


def markers(
    ax: Axes, data: pd.DataFrame, column: str, order: Sequence[str], styles: Mapping[str, dict[str, Any]], **common: Any
) -> None:
    """Draw the mean and deviation of a column at each place, the variants beside each other.

    Args:
        ax: the panel.
        data: a row for each variant and place; its index names the place.
        column: ``column_mean`` and ``column_sd`` are drawn.
        order: of the places.
        styles: looks of the variants.
        common: what all markers have in common.
    """
    for (name, style), shift in zip(styles.items(), sideways(len(styles)), strict=True):
        rows = data[data["variant"] == name].reindex(order)
        yerr = rows[f"{column}_sd"].fillna(0)
        own = style | {"linestyle": "none", "label": name}
        ax.errorbar(np.arange(len(order)) + shift, rows[f"{column}_mean"], yerr=yerr, **own, **common)
