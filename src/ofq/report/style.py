"""The look of figures but for their colours, and how they are written: sizes are legible at the README's width."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ofq.report.collect import MADE_FROM, MARKED, mark
from ofq.runs.files import replacing

WIDTH = 8.0  # inches; 800 pixels in the PNG at 100 dpi, doubled for sharp screens
_DPI = 200

plt.rcParams.update(
    {
        "font.size": 10,
        "axes.titlesize": 10,
        "figure.titlesize": 10,
        "figure.labelsize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#dddddd",
        "legend.frameon": False,
        "savefig.dpi": _DPI,
        "svg.hashsalt": "ofq",  # equal figures give equal files
        "figure.constrained_layout.use": True,
    }
)


def save(figure: Figure, directory: Path, name: str, runs: Iterable[str]) -> None:
    """Write a figure as PNG and SVG, with the names of its runs and their mark in the metadata, and without dates.

    Args:
        figure: the figure; it is closed at the end.
        directory: folder of the two files.
        name: name of the files without a suffix.
        runs: names of the runs, in any order and number.
    """
    names = sorted(set(runs))
    write(figure, directory, name, f"{MADE_FROM} {' '.join(names)}", Identifier=f"{MARKED} {mark(names)}")


def write(figure: Figure, directory: Path, name: str, description: str, **more: str) -> None:
    """Write a figure as :func:`save` does, with any description and more in the metadata."""
    for suffix, unwanted in (("png", "Software"), ("svg", "Date")):
        metadata = {unwanted: None, "Description": description, **more}
        with replacing(directory / f"{name}.{suffix}") as temporary:
            figure.savefig(temporary, metadata=metadata)
    plt.close(figure)
