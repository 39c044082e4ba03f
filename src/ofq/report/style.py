"""How figures look: one colour and marker for a variant everywhere, sizes legible at the README's width."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ofq.files import replacing

WIDTH = 8.0  # inches; 800 pixels in the PNG at 100 dpi, doubled for sharp screens
_DPI = 200
# Okabe and Ito's palette, distinguishable with colour-blindness
_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]

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
    """Colour and marker of each variant, by its place in ``params.yaml``."""
    return {
        name: {"color": _COLOURS[i % len(_COLOURS)], "marker": _MARKERS[i % len(_MARKERS)]}
        for i, name in enumerate(names)
    }


def save(figure: Figure, directory: Path, name: str) -> None:
    """Write PNG and SVG, without dates in them."""
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        with replacing(directory / f"{name}.{suffix}") as temporary:
            figure.savefig(temporary, metadata=metadata)
    plt.close(figure)
