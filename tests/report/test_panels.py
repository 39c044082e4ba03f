"""Figures of some fifteen variants stay legible."""

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure

from ofq.config.grid import Grid
from ofq.report.panels import legend, panels, sideways
from ofq.report.parts.figures import write_figures
from tests.report.conftest import Made

NAMES = [f"statsq-qkr-cga-number{place}" for place in range(15)]


@pytest.mark.parametrize("count", [1, 2, 6, 15, 30])
def test_markers_beside_each_other_leave_a_gap_to_the_next_place(count: int) -> None:
    shifts = sideways(count)
    assert len(shifts) == count and abs(shifts.mean()) < 1e-12
    assert np.ptp(shifts) <= 0.85 and np.all(np.diff(shifts) > 0)


@pytest.mark.parametrize("count", [1, 6, 15])
def test_the_legend_fits_the_width_and_names_each_once(count: int) -> None:
    figure, axes = panels(2, 1, height=3.0)
    for ax in axes.flat:
        for name in NAMES[:count]:
            ax.plot([0, 1], label=name)
    legend(figure, axes)
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert [text.get_text() for text in figure.legends[0].texts] == NAMES[:count]
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
    assert box.y1 <= min(ax.get_tightbbox().y0 for ax in axes.flat), "it covers no panel"


def test_many_variants_have_panels_of_the_whole_width(made: Made, drawn: Callable[[str], dict[str, Figure]]) -> None:
    more = {name: {"weight": "statsq"} for name in NAMES}
    wide: dict[bool, float] = {}
    for crowded in (False, True):
        figures = drawn("ofq.report.parts.figures")
        params = made(variants=NAMES if crowded else NAMES[:6], more=more, bits=["w2a2", "w3a3"], seeds=[0])
        write_figures(Grid(params, "digits"))
        oscillation = figures["oscillation"]
        oscillation.canvas.draw()
        wide[crowded] = oscillation.axes[0].get_position().width
    assert wide[True] > 0.8 and wide[False] < 0.5
    accuracy = figures["accuracy"].axes[0]
    x = [line[0].get_xdata() for line in accuracy.containers]
    assert len(x) == 15 and max(places[0] for places in x) < 0.5 < min(places[1] for places in x)
