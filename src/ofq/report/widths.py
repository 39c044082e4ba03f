"""How wide the steps of a run are, and the curve of a quantity against the width of steps that do not learn."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ofq.report.collect import group_means

WIDTHS = {"start": 0, "run": slice(None), "end": -1}
"""When a width is taken: before the first update, as a mean over the recorded steps, or after the last update."""


def step_width(record: pd.DataFrame, when: str) -> float | None:
    """Return the mean over weights of step/sd, the sd of a weight's row, of one run.

    Args:
        record: the run's ``oscillation.parquet``, or its rows of some layers.
        when: name in :data:`WIDTHS`.

    Returns:
        The width, or None if the record is older than this column.
    """
    by_step = group_means(record, ["step"], ["step_width"])["step_width"].dropna().to_numpy()
    return float(np.mean(by_step[WIDTHS[when]])) if len(by_step) else None


def on_curve(widths: Sequence[float] | np.ndarray, points: Sequence[tuple[float, float]]) -> np.ndarray:
    """Return the values at some widths of the curve through points (width, value), NaN outside of their range.

    The curve is straight between neighbouring points. Where it is convex, as it mostly is, that lies a little above it,
    so an excess over it is rather too small than too large.
    """
    x, y = zip(*sorted(points), strict=True)
    return np.interp(widths, x, y, left=np.nan, right=np.nan)
