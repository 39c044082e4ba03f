"""What the report makes of annealing, step by step."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ofq.config.grid import Grid
from ofq.config.params import Params
from ofq.report.parts.annealing import left_in_band, write_annealing
from ofq.report.parts.boundary_range import write_boundary_range
from ofq.runs.paths import Run
from tests.report.conftest import Made

REPORT = Path("results/digits/report")
SWEEP = ["statsq-qkr-cga-br0.05", "statsq-qkr-cga-br0.003", "statsq-qkr-cga"]


@pytest.fixture
def params(made: Made) -> Params:
    return made(variants=SWEEP, measure=[])


def test_what_is_left_counts_layers_by_their_weights() -> None:
    coordinates = {"model": "m", "bits": "w2a2", "variant": "v", "run": "r", "seed": 0}
    record = pd.DataFrame([{"step": 1, "free": 30, "weights": 100}, {"step": 1, "free": 0, "weights": 200}])
    assert list(left_in_band(record.assign(**coordinates))["left"]) == [10.0]


def test_only_variants_with_a_band_have_one(made: Made) -> None:
    controls = ["lsq", "statsq", "statsq-extra", "statsq-frozen"]
    assert Grid(made(variants=[*controls, "statsq-cga"]), "digits").bands == {"statsq-cga": 0.005}
    assert Grid(made(variants=controls), "digits").bands == {}


def test_the_table_goes_from_the_narrowest_band_and_shows_the_last_step(params: Params) -> None:
    for seed, free in enumerate((2, 6)):
        path = Run("digits", "vit_micro", "w2a2", "statsq-qkr-cga", seed).files.root / "annealing.parquet"
        frame = pd.read_parquet(path)
        frame.loc[frame["step"] == 300, "free"] = free
        frame.to_parquet(path)
    write_boundary_range(Grid(params, "digits"))
    table = pd.read_csv(REPORT / "tables/boundary_range.csv")
    assert list(table["boundary_range"]) == [0.003, 0.005, 0.05]
    row = table.set_index("boundary_range").loc[0.005]
    assert row["variant"] == "statsq-qkr-cga" and row["n"] == 2
    assert row["left_mean"] == pytest.approx(100 * 4 / 1024)
    assert row["left_sd"] == pytest.approx(100 * (6 - 2) / 1024 / 2**0.5)
    assert "second-hand" in (REPORT / "tables/boundary_range.md").read_text()


def test_bit_widths_stand_together_in_the_table(made: Made) -> None:
    write_boundary_range(Grid(made(variants=SWEEP, bits=["w3a3", "w2a2"], measure=[]), "digits"))
    table = pd.read_csv(REPORT / "tables/boundary_range.csv")
    assert list(table["bits"]) == ["w3a3"] * 3 + ["w2a2"] * 3 and list(table["boundary_range"][:3]) == [
        0.003,
        0.005,
        0.05,
    ]


def test_each_annealed_variant_has_a_panel_with_a_line_for_each_seed_all_to_one_scale(
    params: Params, drawn: Callable[[str], dict[str, Figure]]
) -> None:
    figures = drawn("ofq.report.parts.annealing")
    write_annealing(Grid(params, "digits"))
    axes = [ax for ax in figures["scale_trajectories"].axes if ax.get_visible()]
    assert [ax.get_title() for ax in axes] == [f"{name}, W2A2" for name in SWEEP]
    assert len({ax.get_ylim() for ax in axes}) == 1
    path = Run("digits", "vit_micro", "w2a2", "statsq-qkr-cga", 1).files.root / "annealing.parquet"
    frame = pd.read_parquet(path)
    scale = frame[frame["layer"] == "blocks.1.mlp.fc2"]["scale"].to_numpy()
    assert [len(ax.lines) for ax in axes] == [2, 2, 2]
    assert np.allclose(axes[2].lines[1].get_ydata(), 100 * (scale / scale[0] - 1))
    assert all(line.get_ydata()[0] == 0 for ax in axes for line in ax.lines)


def test_the_steps_of_a_control_that_trains_on_stand_beside_those_of_an_annealed_run(
    made: Made, drawn: Callable[[str], dict[str, Figure]]
) -> None:
    figures = drawn("ofq.report.parts.annealing")
    names = ["statsq", "statsq-frozen", "statsq-extra", "statsq-cga", "statsq-qkr-cga"]
    write_annealing(Grid(made(variants=names), "digits"))
    drawn_lines = {ax.get_title(): ax.lines for ax in figures["scale_trajectories"].axes if ax.get_visible()}
    assert set(drawn_lines) == {"statsq-cga, W2A2", "statsq-qkr-cga, W2A2"}
    control = [line for line in drawn_lines["statsq-cga, W2A2"] if line.get_label().startswith("control")]
    path = Run("digits", "vit_micro", "w2a2", "statsq-extra", 0).files.root / "annealing.parquet"
    frame = pd.read_parquet(path)
    scale = frame[frame["layer"] == "blocks.1.mlp.fc2"]["scale"].to_numpy()
    assert len(control) == 2 and np.allclose(control[0].get_ydata(), 100 * (scale / scale[0] - 1))
    assert len(drawn_lines["statsq-qkr-cga, W2A2"]) == 2, "its own control is not in the grid"


def test_the_figure_of_boundary_ranges_has_them_on_its_axis(
    params: Params, drawn: Callable[[str], dict[str, Figure]]
) -> None:
    figures = drawn("ofq.report.parts.boundary_range")
    write_boundary_range(Grid(params, "digits"))
    table = pd.read_csv(REPORT / "tables/boundary_range.csv")
    axes = figures["boundary_range"].axes
    for ax, quantity in zip(axes, ("top1", "osc_share", "left"), strict=True):
        places = [bar[0].get_xydata()[0].tolist() for bar in ax.containers]
        assert places == [pytest.approx(row) for row in table[["boundary_range", f"{quantity}_mean"]].to_numpy()]
        assert ax.get_xscale() == "log" and ax.get_xlim()[0] < 0.003 and ax.get_xlim()[1] > 0.05
    assert axes[1].get_yscale() == "symlog" and axes[1].get_ylim()[0] < 0, "0 has a place"


def test_the_figure_of_annealing_has_a_place_for_no_weight_at_all(
    made: Made, drawn: Callable[[str], dict[str, Figure]]
) -> None:
    figures = drawn("ofq.report.parts.annealing")
    params = made(variants=["statsq", "statsq-cga", "statsq-qkr-cga"], bits=["w2a2", "w3a3"])
    write_annealing(Grid(params, "digits"))
    axes = figures["annealing"].axes
    assert [ax.get_title() for ax in axes] == ["vit_micro, W2A2", "vit_micro, W3A3"]
    for ax in axes:
        lines = {line.get_label(): line for line in ax.lines}
        assert set(lines) == {"statsq-cga", "statsq-qkr-cga"}
        shares = lines["statsq-cga"].get_ydata()
        assert shares[0] == pytest.approx(100 * 10 / 1024) and shares[-1] == 0
        heights = ax.transData.transform([(1, 0), (1, 100 / (8 * 1024)), (1, 1)])[:, 1]
        assert ax.bbox.y0 < heights[0] < heights[1] < heights[2], "0 and a single weight are told apart"


def test_figures_name_their_runs(params: Params) -> None:
    write_boundary_range(Grid(params, "digits"))
    with Image.open(REPORT / "figures/boundary_range.png") as image:
        names = set(image.info["Description"].split("runs: ")[1].split())
        assert image.width == 1600
    assert names == {str(run) for run in Grid(params, "digits").runs}
