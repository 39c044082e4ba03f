"""Oscillation beside the width of the step: what is read, how the curve is drawn, and who is left out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ofq.config.grid import Grid
from ofq.report.parts.step_width import write_step_width
from ofq.report.parts.tables import write_tables
from ofq.report.widths import on_curve, step_width
from tests.report.conftest import Made

CURVE = ["statsq", "statsq-k3", "statsq-k4"]


def record(**more: Any) -> pd.DataFrame:
    return pd.DataFrame(
        {"step": [0, 0, 5, 5, 9, 9], "group": ["q", "v"] * 3, "weights": [100, 300] * 3}
        | {"step_width": [1.0, 2.0, 2.0, 2.0, 4.0, 2.0]}
        | more
    )


def test_a_width_is_a_mean_over_weights_at_the_start_over_the_run_or_at_the_end() -> None:
    found = {when: step_width(record(), when) for when in ("start", "run", "end")}
    assert found == {"start": 1.75, "run": (1.75 + 2.0 + 2.5) / 3, "end": 2.5}
    # a layer without a width, all of whose rows are constant, does not count
    assert step_width(record(step_width=[np.nan, 2.0, 2.0, 2.0, 4.0, np.nan]), "end") == 4.0
    assert step_width(record(step_width=np.nan), "end") is None
    assert step_width(record().drop(columns="step_width"), "run") is None


def test_the_curve_is_straight_between_neighbours_and_ends_at_the_last() -> None:
    points = [(2.0, 3.0), (1.0, 5.0), (4.0, 2.0)]  # in any order
    assert on_curve([1.0, 1.5, 3.0, 4.0], points).tolist() == [5.0, 4.0, 2.5, 2.0]
    assert np.isnan(on_curve([0.999, 4.001], points)).all()


def write(params: Any, *, change: Callable[[pd.DataFrame], pd.DataFrame] | None = None, who: str = "") -> pd.DataFrame:
    grid = Grid(params, "digits")
    for run in grid.students:
        if change is not None and run.variant.startswith(who):
            path = run.files.oscillation
            change(pd.read_parquet(path)).to_parquet(path, index=False)
    write_step_width(grid)
    return pd.read_csv("results/digits/report/figures/step_width.csv")


def test_each_run_stands_beside_the_curve_of_its_own_seed(made: Made) -> None:
    points = write(made(variants=[*CURVE, "lsq"], curve=CURVE), change=lambda old: old.assign(step_width=1.25 * old["step_width"]), who="lsq")  # fmt: skip
    assert len(points) == 4 * 2 and dict(points.groupby("variant")["step"].first())["lsq"] == "learned"
    for seed, here in points.groupby("seed"):
        own = here[here["variant"] == "lsq"].iloc[0]
        on_it = here[here["variant"].isin(CURVE)].sort_values("width_run")
        assert set(on_it["step"]) == {"held"} and on_it[["curve_reversals", "curve_osc_share"]].isna().all(axis=None)
        for quantity, width in (("reversals", "width_run"), ("osc_share", "width_end")):
            right = np.interp(own[width], on_it[width], on_it[quantity])
            assert own[f"curve_{quantity}"] == pytest.approx(right), seed
    table = pd.read_csv("results/digits/report/tables/step_width.csv").set_index("variant")
    own = points[points["variant"] == "lsq"]
    assert table.loc["lsq", "excess_reversals_mean"] == pytest.approx((100 * (own["reversals"] / own["curve_reversals"] - 1)).mean())  # fmt: skip
    assert table.loc["lsq", "excess_share_mean"] == pytest.approx((own["osc_share"] - own["curve_osc_share"]).mean())
    assert table.loc["lsq", "inside_reversals"] == 2 and table.loc["lsq", "width_start_mean"] < table.loc["lsq", "width_end_mean"]  # fmt: skip
    shown = Path("results/digits/report/tables/step_width.md").read_text()
    assert "on it" in shown and "through statsq, statsq-k3, statsq-k4, straight between neighbours" in " ".join(shown.split())  # fmt: skip


def test_a_run_outside_the_curve_is_left_out_and_counted(made: Made) -> None:
    points = write(made(variants=[*CURVE, "lsq", "rms"], curve=CURVE), change=lambda old: old.assign(step_width=9 * old["step_width"]), who="lsq")  # fmt: skip
    assert points[points["variant"] == "lsq"]["curve_reversals"].isna().all()
    table = pd.read_csv("results/digits/report/tables/step_width.csv").set_index("variant")
    assert table.loc["lsq", "inside_reversals"] == 0 and pd.isna(table.loc["lsq", "excess_share_mean"])
    assert table.loc["rms", "inside_share"] == 2 and table.loc["rms", "step"] == "held"
    row = next(line for line in Path("results/digits/report/tables/step_width.md").read_text().splitlines() if " lsq " in line)  # fmt: skip
    assert row.count("– (0 of 2)") == 2


def test_records_of_before_widths_were_recorded_stay_readable(made: Made) -> None:
    params = made(variants=[*CURVE, "lsq"], curve=CURVE)
    points = write(params, change=lambda old: old.drop(columns="step_width"), who="")
    assert points[["width_start", "width_run", "width_end", "curve_reversals"]].isna().all(axis=None)
    assert points["reversals"].notna().all()
    write_tables(Grid(params, "digits"))


def test_the_figure_has_a_dot_for_each_run_beside_the_curve_and_held_steps_apart_from_learned_ones(
    made: Made, drawn: Callable[[str], dict[str, Figure]]
) -> None:
    figures = drawn("ofq.report.parts.step_width")
    held = [*CURVE, "statsq-k6", "statsq-k8", "rms", "lsq-fixed"]
    learned = ["lsq", "lsq-midrise"]
    points = write(made(variants=[*held, *learned], bits=["w2a2", "w3a3"], curve=CURVE))
    assert set(figures) == {"step_width", "step_width_accuracy"}
    quantities = {"step_width": ("reversals", "osc_share"), "step_width_accuracy": ("top1", "loss")}
    for name, shown in quantities.items():
        kinds = (("held", held[3:]), ("learned", learned))
        rows = [(quantity, kind, bits) for quantity in shown for kind in kinds for bits in ("w2a2", "w3a3")]
        for ax, (quantity, (kind, names), bits) in zip(figures[name].axes, rows, strict=True):
            assert ax.get_title() == f"vit_micro, {bits.upper()}, {kind} steps" and "sd of its row" in ax.get_xlabel()
            here = points[points["bits"] == bits]
            width = "width_end" if quantity == "osc_share" else "width_run"
            dots = [line.get_xydata() for line in ax.lines if line.get_markersize() == 2]
            bars = {bar.get_label(): bar[0].get_xydata()[0] for bar in ax.containers}
            assert set(bars) == set(names)
            for each, drawn_dots in zip(bars, dots, strict=True):
                own = here[here["variant"] == each][[width, quantity]]
                np.testing.assert_allclose(drawn_dots, own)
                np.testing.assert_allclose(bars[each], own.mean())
            assert "curve of held steps" in [line.get_label() for line in ax.lines]
