"""How figures look: one colour and marker for a variant everywhere, sizes legible at the README's width."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ofq.report.collect import MADE_FROM
from ofq.runs.files import replacing

WIDTH = 8.0  # inches; 800 pixels in the PNG at 100 dpi, doubled for sharp screens
_DPI = 200
# Okabe and Ito's palette, distinguishable with colour-blindness, with brown in the place of its yellow, which is too
# pale for lines; then four of Tol's. The numbers of colours and of markers have no common divisor, so that no two of
# the first 132 variants look alike.
_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C510A", "#000000"]
_COLOURS += ["#882255", "#999933", "#332288", "#AA4499"]
_LINES, _FILLS = ["-", "--", ":"], ["full", "none", "left"]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*", "<", "h", ">"]

plt.rcParams.update(
    {
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#dddddd",
        "legend.frameon": False,
        "savefig.dpi": _DPI,
        "svg.hashsalt": "ofq",  # the same figure is the same file
        "figure.constrained_layout.use": True,
    }
)


def look(names: list[str]) -> dict[str, dict[str, str]]:
    """Colour, marker and line of each variant, by its place in ``params.yaml``.

    Where the colours begin anew, lines are broken and markers are not filled.
    """
    return {
        name: {
            "color": _COLOURS[i % len(_COLOURS)],
            "marker": _MARKERS[i % len(_MARKERS)],
            "linestyle": _LINES[i // len(_COLOURS) % len(_LINES)],
            "fillstyle": _FILLS[i // len(_COLOURS) % len(_FILLS)],
        }
        for i, name in enumerate(names)
    }


def save(figure: Figure, directory: Path, name: str, runs: Iterable[str]) -> None:
    """Write PNG and SVG, with the runs that they show in their metadata, and without dates.

    Args:
        figure: closed at the end.
        directory: of the two files.
        name: without a suffix.
        runs: names of the runs, in any order and number.
    """
    write(figure, directory, name, f"{MADE_FROM} {' '.join(sorted(set(runs)))}")


def write(figure: Figure, directory: Path, name: str, description: str) -> None:
    """As :func:`save`, with any description in the metadata."""
    for suffix, unwanted in (("png", "Software"), ("svg", "Date")):
        metadata = {unwanted: None, "Description": description}
        with replacing(directory / f"{name}.{suffix}") as temporary:
            figure.savefig(temporary, metadata=metadata)
    plt.close(figure)
