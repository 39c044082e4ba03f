"""Tables and figures of runs whose statistics of batch norms were re-estimated: their numbers, and which grids have them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ofq.config import params
from ofq.config.grid import Grid, grids
from ofq.errors import UserError
from ofq.report import paper
from ofq.report.artefacts import ARTEFACTS, BY_NAME, files_of
from ofq.report.parts.batch_norms.divergence import write_divergence
from ofq.report.parts.batch_norms.reestimation import evaluations, write_reestimation
from ofq.report.parts.tables import write_tables
from ofq.runs.files import read_json, write_json, write_text
from ofq.runs.paths import data_dir
from tests.conftest import ROOT
from tests.docs.pages import explained

PARAMS = params.load(ROOT / "params.yaml")
PARTS = {"reestimation", "divergence"}
LAYERS = {"dw1": ("depthwise", 8), "pw1": ("pointwise", 16), "se1": ("se", None), "dw2": ("depthwise", 24)}


def finish(grid: Grid) -> None:
    """All that the parts read of each run of a grid, drawn at random: eight evaluations, four layers, one without a norm."""
    rng = np.random.default_rng(0)
    write_json(data_dir(grid.study) / "manifest.json", {"files": {"eval": {"images": 400}}})
    for run in grid.teachers:
        write_json(run.files.metrics, {"top1": 85.0, "loss": 0.4, "seed": run.seed})
    for run in grid.students:
        running, restored = rng.uniform(60, 80, 8), rng.uniform(80, 90, 8)
        write_json(
            run.files.metrics,
            {"top1": running[-1], "loss": 0.5, "osc_share": 3.0, "reversals": 0.1, "seed": run.seed, "steps": 80}
            | {"top1_last": running[-5:].mean(), "top1_last_sd": running[-5:].std(ddof=1)}
            | {"top1_reestimated_last": restored[-5:].mean(), "top1_reestimated_last_sd": restored[-5:].std(ddof=1)},
        )
        events: list[dict[str, Any]] = [{"event": "start"}]
        for place in range(8):
            values = {"val/top1": running[place], "val/top1_reestimated": restored[place]}
            events.append({"event": "step", "step": 10 * (place + 1)} | values)
        write_text(run.files.events, "".join(json.dumps(event) + "\n" for event in [*events, {"event": "end"}]))
        rows = [
            {"step": step, "layer": layer, "group": group, "weights": 100, "share": 3.0, "share_high": 1.0}
            | {"reversals": 0.1, "step_width": 1.0, "channels": channels, "dead": 1.0 if channels else None}
            | {"kl_mean": rng.uniform(1e-4, 1e-2) if step and channels else None}
            for step in (0, 40, 80)
            for layer, (group, channels) in LAYERS.items()
        ]
        pd.DataFrame(rows).to_parquet(run.files.oscillation)


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    monkeypatch.chdir(tmp_path)
    grid = Grid(PARAMS, "fashion-cnn")
    grid.seeds = [0, 1, 2]
    finish(grid)
    return grid


def read(grid: Grid, name: str) -> pd.DataFrame:
    return pd.read_csv(grid.directory / "tables" / f"{name}.csv").set_index(["bits", "variant"])


def of(grid: Grid, bits: str, variant: str) -> pd.DataFrame:
    """The metrics of the runs of a cell."""
    runs = [run for run in grid.students if (run.bits, run.variant) == (bits, variant)]
    return pd.DataFrame([read_json(run.files.metrics) for run in runs])


def test_the_table_has_the_means_and_deviations_of_the_metrics(grid: Grid) -> None:
    write_reestimation(grid)
    table = read(grid, "reestimation")
    assert list(table.index) == [(bits, name) for bits in grid.bits for name in grid.variants]
    names = {
        "running": "top1_last",
        "running_spread": "top1_last_sd",
        "reestimated": "top1_reestimated_last",
        "reestimated_spread": "top1_reestimated_last_sd",
    }
    for place in table.index:
        metrics = of(grid, *place)
        metrics["gain"] = metrics["top1_reestimated_last"] - metrics["top1_last"]
        for column, key in [*names.items(), ("gain", "gain")]:
            assert table.loc[place, f"{column}_mean"] == pytest.approx(metrics[key].mean()), (place, column)
            assert table.loc[place, f"{column}_sd"] == pytest.approx(metrics[key].std(ddof=1)), (place, column)
    text = (grid.directory / "tables/reestimation.md").read_text()
    row = table.loc["w2a32", "nagel"]
    assert f"| +{row['gain_mean']:.2f} ± {row['gain_sd']:.2f} " in text
    for said in (
        "seeds 0, 1, 2",
        "the last 5 evaluations",
        "no evidence of oscillation by itself",
        "codes that are held",
    ):
        assert said in text


def test_published_numbers_stand_beside_the_model_that_they_belong_to(grid: Grid) -> None:
    write_reestimation(grid)
    table = read(grid, "reestimation")
    three = table.loc["w3a32", "nagel"]
    assert (three["paper_running_mean"], three["paper_running_sd"]) == (64.97, 1.23)
    assert (three["paper_reestimated_mean"], three["paper_reestimated_sd"]) == (69.50, 0.04)
    assert table.loc["w3a32", "nagel-freezing"]["paper_reestimated_mean"] == 70.33
    assert table.loc["w2a32"].filter(like="paper_").isna().to_numpy().all()
    text = (grid.directory / "tables/reestimation.md").read_text()
    assert "64.97 ± 1.23 (second-hand)" in text and "mobilenet_v2 beside mobilenet28" in text


@pytest.mark.parametrize(
    ("bits", "variant", "number"),
    [
        ("w4a4", "nagel", "69.5"),
        ("w4a4", "nagel-dampening", "70.5"),
        ("w4a4", "nagel-freezing-w4", "70.6"),
        ("w3a3", "nagel", "65.3"),
        ("w3a3", "nagel-dampening", "67.8"),
        ("w3a3", "nagel-freezing-w3", "67.6"),
        ("w4a32", "nagel", "71.01"),
        ("w3a32", "nagel", "69.50"),
    ],
)
def test_the_study_with_the_recipes_of_the_paper_has_its_numbers(bits: str, variant: str, number: str) -> None:
    found = [grid for grid in grids(PARAMS, "imagenet-mobilenet") if bits in grid.bits and variant in grid.variants]
    (model,) = found[0].models
    one = paper.reestimated(PARAMS.models[model].paper_model, bits, variant)
    assert one is not None and (one.text, one.mark) == (number, "second-hand")


def test_divergence_is_a_mean_over_the_channels_of_a_group_at_the_last_step(grid: Grid) -> None:
    write_divergence(grid)
    table = read(grid, "divergence").set_index("group", append=True)
    assert set(table.index.get_level_values("group")) == {"depthwise", "pointwise"}
    means, largest = [], []
    for seed in grid.seeds:
        run = next(run for run in grid.students if (run.bits, run.variant, run.seed) == ("w2a32", "nagel", seed))
        record = pd.read_parquet(run.files.oscillation)
        last = record[record["step"] == 80].set_index("layer")["kl_mean"]
        means.append((8 * last["dw1"] + 24 * last["dw2"]) / 32)
        largest.append(max(last["dw1"], last["dw2"]))
    row = table.loc["w2a32", "nagel", "depthwise"]
    assert row["kl_mean"] == pytest.approx(np.mean(means)) and row["kl_sd"] == pytest.approx(np.std(means, ddof=1))
    assert row["kl_largest_mean"] == pytest.approx(np.mean(largest))
    assert row["dead_mean"] == 2 and table.loc["w2a32", "nagel", "pointwise"]["dead_mean"] == 1


def test_the_page_of_names_explains_every_column(grid: Grid) -> None:
    write_reestimation(grid)
    write_divergence(grid)
    for path in (grid.directory / "tables").glob("*.csv"):
        assert explained(path.name) == list(pd.read_csv(path)), path.name


def test_figures_show_each_width_and_variant_with_seeds_and_units(
    grid: Grid, drawn: Callable[[str], dict[str, Figure]]
) -> None:
    accuracy = drawn("ofq.report.parts.batch_norms.reestimation")
    layers = drawn("ofq.report.parts.batch_norms.divergence")
    write_reestimation(grid)
    write_divergence(grid)
    for figure, unit in ((accuracy["reestimation"], "top-1, %"), (layers["divergence"], "KL, nats")):
        titles = [ax.get_title() for ax in figure.axes]
        assert titles == [f"{name}, {bits.upper()}" for name in grid.variants for bits in grid.bits]
        assert {ax.get_ylabel() for ax in figure.axes} == {unit, ""}
        assert "fashion-cnn" in figure.get_suptitle() and "n = 3: seeds 0, 1, 2" in figure.get_suptitle()
    first = accuracy["reestimation"].axes[0]
    data = evaluations(grid.students).query("bits == 'w2a32' and variant == 'nagel'").groupby("step")
    running, restored = (line.get_ydata() for line in first.lines)
    assert list(first.lines[0].get_xdata()) == [40, 50, 60, 70, 80]
    assert running == pytest.approx(data["running"].mean()) and restored == pytest.approx(data["re-estimated"].mean())
    panel = layers["divergence"].axes[0]
    shown = {part.get_label(): part.lines[0].get_xdata().tolist() for part in panel.containers}
    assert shown == {"depthwise": [1, 3], "pointwise": [2]} and panel.get_yscale() == "log"


def test_only_grids_that_re_estimate_have_these_parts() -> None:
    made = {
        (study, grid.group)
        for study in PARAMS.studies
        for grid in grids(PARAMS, study)
        if PARTS & {artefact.name for artefact in ARTEFACTS if artefact.made(grid)}
    }
    studies = {"digits-cnn", "fashion-cnn", "cifar10-cnn", "imagenet-mobilenet"}
    assert made == {(study, grid.group) for study in studies for grid in grids(PARAMS, study)}
    assert "tables/reestimation.csv" in files_of(Grid(PARAMS, "digits-cnn"))
    assert not any("reestimation" in name or "divergence" in name for name in files_of(Grid(PARAMS, "digits")))


def test_a_grid_with_one_place_that_does_not_re_estimate_has_none_of_them() -> None:
    content = PARAMS.model_dump(mode="json", exclude_unset=True)
    content["studies"]["fashion-cnn"]["recipe_for"] = {"mobilenet28/w3a32": "fashion"}
    grid = Grid(params.Params.model_validate(content), "fashion-cnn")
    assert not grid.reestimates and not BY_NAME["reestimation"].made(grid)
    assert Grid(grid.params, "fashion-cnn", "w8a32").reestimates


def test_logs_and_records_without_re_estimation_are_one_line(grid: Grid) -> None:
    first = grid.students[0].files
    for wrong in (first.events.read_text().replace("val/top1_reestimated", "val/other"), "3\n", '{"step": 1}\n'):
        first.events.write_text(wrong)
        said = f"{first.events} is no log with val/top1 and val/top1_reestimated; delete it"
        with pytest.raises(UserError, match=re.escape(said)):
            evaluations(grid.students)
    first.events.write_text("no json\n")
    with pytest.raises(UserError, match=rf"{re.escape(str(first.events))} cannot be read .*; delete it and run"):
        evaluations(grid.students)
    first.events.unlink()
    with pytest.raises(UserError, match="does not exist; make it with: snakemake"):
        evaluations(grid.students)
    last = grid.students[-1].files.oscillation
    pd.read_parquet(last).drop(columns=["channels", "dead", "kl_mean"]).to_parquet(last)
    with pytest.raises(UserError, match=rf"{re.escape(str(last))} has no column channels, dead, kl_mean; delete it"):
        write_divergence(grid)


def test_the_common_tables_speak_of_these_networks(grid: Grid) -> None:
    write_tables(grid)
    texts = {name: (grid.directory / f"tables/{name}.md").read_text() for name in ("main", "ablation", "oscillation")}
    assert "The paper's numbers (none)" in texts["main"], "those of another paper stand in another table"
    assert "Δ to nagel, points" in texts["ablation"] and "stands in no column" not in texts["ablation"]
    assert "classifier have 8 bits" in texts["oscillation"] and "under QKR" not in texts["oscillation"]
    gain = read(grid, "ablation").loc["w2a32", "nagel-dampening"]["gain_mean"]
    dampened, plain = (of(grid, "w2a32", name)["top1"] for name in ("nagel-dampening", "nagel"))
    assert gain == pytest.approx((dampened - plain).mean())
