"""Which variants share a panel, and what each of them looks like: at most eight a panel, no two of them alike.

A variant has one colour and one marker in every figure. Both are chosen by the panels that ``params.yaml`` asks for, so
that neither repeats within a panel; markers tell the variants apart where a page is printed in grey.
"""

from itertools import product

import numpy as np

from ofq.config.grid import Grid, grids
from ofq.config.params import Params
from ofq.runs.paths import TEACHER

MOST = 8
"""Variants of a panel, at most."""
# Okabe and Ito's palette, which colour-blind readers can distinguish, with brown instead of its yellow, which is too
# pale for lines; then four of Tol's colours.
_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C510A", "#000000"]
_COLOURS += ["#882255", "#999933", "#332288", "#AA4499"]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*", "<", "h", ">"]


def in_panels(grid: Grid) -> list[list[str]]:
    """Return the variants of a grid by the panel that they share, one panel if they are few enough.

    Kinds stay together: variants with one weight quantizer, with QKR or without; in a grid with a curve those of the
    curve, others with a held step, and those whose step learns.
    """
    names = [name for name in grid.variants if name != TEACHER]
    if len(names) <= MOST:
        return [names]
    kinds: dict[object, list[str]] = {}
    for name in names:
        kinds.setdefault(_kind(grid, name), []).append(name)
    panels: list[list[str]] = [[]]
    for kind in kinds.values():
        for part in np.array_split(kind, -(-len(kind) // MOST)):
            if len(panels[-1]) + len(part) > MOST:
                panels.append([])
            panels[-1] += part.tolist()
    return panels


def _kind(grid: Grid, name: str) -> object:
    source = grid.params.source(name)
    if grid.curve:
        return "curve" if name in grid.curve else source.step_learns
    return source.weight, source.qkr


def look(params: Params) -> dict[str, dict[str, str]]:
    """Return colour and marker of every variant, the first that no variant of its panels has, no pair of both twice.

    If there is none, it is the pair that the fewest have.
    """
    beside: dict[str, set[str]] = {name: set() for name in params.variants}
    for study in params.studies:
        for grid in grids(params, study):
            for panel in [*in_panels(grid), list(grid.bands)]:
                for name in panel:
                    beside[name].update(panel)
    found: dict[str, tuple[str, str]] = {}
    for name in params.variants:
        near = [found[other] for other in beside[name] if other in found]

        def repeats(pair: tuple[str, str], near: list[tuple[str, str]] = near) -> tuple[int, int, int]:
            colours, markers = (sum(one[place] == pair[place] for one in near) for place in (0, 1))
            return colours + markers, list(found.values()).count(pair), markers

        found[name] = min(product(_COLOURS, _MARKERS), key=repeats)
    return {name: {"color": colour, "marker": marker} for name, (colour, marker) in found.items()}


def looks(grid: Grid) -> dict[str, dict[str, str]]:
    """Return the look of each of the grid's variants, in the order of ``params.yaml``."""
    listed = grid.variants
    return {name: each for name, each in look(grid.params).items() if name in listed}
