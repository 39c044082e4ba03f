"""Figures of some fifteen variants stay legible."""

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from ofq.config.grid import Grid
from ofq.report.panels import legend, panels, seeds, sideways
from ofq.report.parts.figures import write_figures
from ofq.runs.published import read_metrics
from tests.report.conftest import Made
from tests.report.synthetic import parameters

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


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([42], "n = 1: seed 42"),
        ([0, 1, 2], "n = 3: seeds 0, 1, 2"),
        ([2, 3, 4, 5], "n = 4: seeds 2 to 5"),
        ([0, 1, 2, 7], "n = 4: seeds 0, 1, 2, 7"),
    ],
)
def test_a_title_says_how_many_seeds_and_which(given: list[int], said: str) -> None:
    assert seeds(Grid(parameters({"seeds": given}), "digits")) == said


def test_many_variants_are_shared_out_over_panels_of_the_whole_width(
    made: Made, drawn: Callable[[str], dict[str, Figure]]
) -> None:
    more = {name: {"weight": "statsq"} for name in NAMES}
    figures = drawn("ofq.report.parts.figures")
    write_figures(Grid(made(variants=NAMES, more=more, bits=["w2a2", "w3a3"], seeds=[0]), "digits"))
    assert set(figures) == {"accuracy", "layer_groups", "latent_weights"}
    panels = figures["accuracy"].axes
    named = [[one.get_label() for one in ax.containers] for ax in panels]
    assert named == [NAMES[:8], NAMES[8:]]
    for ax in panels:
        x = [bar[0].get_xdata() for bar in ax.containers]
        assert max(places[0] for places in x) < 0.5 < min(places[1] for places in x)
    figures["accuracy"].canvas.draw()
    assert panels[0].get_position().width > 0.5


def test_the_figure_of_accuracy_has_intervals_seeds_the_teachers_spread_and_what_an_image_is_worth(
    made: Made, drawn: Callable[[str], dict[str, Figure]]
) -> None:
    figures = drawn("ofq.report.parts.figures")
    params = made(variants=["lsq", "statsq"], seeds=[0, 1, 2])
    write_figures(Grid(params, "digits"))
    figure = figures["accuracy"]
    title = figure.get_suptitle()
    assert "one of 400 test images is 0.25 points" in title and "n = 3: seeds 0, 1, 2" in title
    (ax,) = figure.axes
    top1 = [read_metrics(run.files.metrics)["top1"] for run in Grid(params, "digits").students if run.variant == "lsq"]
    mean, _, (bar,) = ax.containers[0]
    low, high = bar.get_segments()[0][:, 1]
    half = stats.t.isf(0.025, 2) * np.std(top1, ddof=1) / 3**0.5
    assert (mean.get_ydata()[0], low, high) == pytest.approx(
        (np.mean(top1), np.mean(top1) - half, np.mean(top1) + half)
    )
    assert sorted(ax.lines[1].get_ydata()) == pytest.approx(sorted(top1)), "a dot for each seed"
    band = next(patch for patch in ax.patches if patch.get_label() == "full precision, mean ± sd")
    assert (band.get_y(), band.get_height()) == pytest.approx((98.0, 0.2)), "teachers have 98.0, 98.1 and 98.2 %"


def test_latent_weights_stand_beside_their_parents_or_the_first_variants(
    made: Made, drawn: Callable[[str], dict[str, Figure]]
) -> None:
    figures = drawn("ofq.report.parts.figures")
    write_figures(Grid(made(variants=["lsq", "statsq", "statsq-cga"]), "digits"))
    axes = figures["latent_weights"].axes
    assert [ax.get_title() for ax in axes] == ["lsq", "statsq\nline: lsq", "statsq-cga\nline: statsq"]
    for ax in axes:
        edges = [bar.get_x() for bar in ax.patches]
        assert min(edges) == pytest.approx(-1.95) and max(edges) < 1, "clamped weights are told, not drawn"
        assert len(ax.texts) == 2 and all(text.get_text().endswith(" %") for text in ax.texts)
        dotted = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"]
        assert dotted == [-1.5, -0.5, 0.5]


def test_oscillation_has_a_panel_for_each_training_and_one_for_what_follows_it(
    made: Made, drawn: Callable[[str], dict[str, Figure]]
) -> None:
    figures = drawn("ofq.report.parts.over_training")
    names = ["lsq", "statsq", "statsq-extra", "statsq-cga"]
    write_figures(Grid(made(variants=names, bits=["w2a2", "w3a3"]), "digits"))
    axes = figures["oscillation"].axes
    titles = [f"{name}, {bits}" for name in ("lsq", "statsq", "statsq, continued") for bits in ("W2A2", "W3A3")]
    assert [ax.get_title() for ax in axes] == titles
    for ax, title in zip(axes, titles, strict=True):
        found = {line.get_label(): line.get_xdata() for line in ax.lines if not line.get_label().startswith("_")}
        constant, annealed = "constant learning rate from here on", "annealing from here on"
        assert found[constant][0] == 1000, "of 1,200 steps the last 200"
        if "continued" in title:
            assert set(found) == {"statsq", "statsq-extra", "statsq-cga", constant, annealed}
            assert found[annealed][0] == 1200
            assert min(found["statsq"]) == 1000 and max(found["statsq-cga"]) == 1500
        else:
            assert set(found) == {title.split(",")[0], constant}
            assert sum(line.get_color() == "#c4c4c4" for line in ax.lines) == 1, "the other one, grey"
