"""What the report makes of noise and probes of finished runs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ofq.config.grid import Grid
from ofq.config.params import Params
from ofq.errors import UserError
from ofq.report.parts.noise_table import write_noise_table
from ofq.report.parts.probes import by_distance, write_boundary, write_coupling
from ofq.runs.files import read_json, write_json
from ofq.runs.paths import Run
from tests.report.conftest import Made

REPORT = Path("results/digits/report")
VARIANTS = ["statsq", "statsq-qkr", "statsq-cga"]


@pytest.fixture
def params(made: Made) -> Params:
    return made(variants=VARIANTS)


def run(variant: str, seed: int) -> Run:
    return Run("digits", "vit_micro", "w2a2", variant, seed)


def noise(params: Params) -> pd.DataFrame:
    write_noise_table(Grid(params, "digits"))
    return pd.read_csv(REPORT / "tables/noise.csv").set_index(["variant", "where", "range"]).sort_index()


def test_rows_of_noise_go_from_none_to_the_widest_range(params: Params) -> None:
    write_noise_table(Grid(params, "digits"))
    table = pd.read_csv(REPORT / "tables/noise.csv")
    rows = list(table[table["variant"] == "statsq"][["where", "range"]].itertuples(index=False, name=None))
    assert rows == [("none", 0), ("random", 0.005), ("boundary", 0.005), ("random", 0.01), ("boundary", 0.01)]
    assert set(table["variant"]) == {"statsq", "statsq-qkr"}, "annealed runs have no noise"


def test_spread_over_trials_and_over_seeds_are_told_apart(params: Params) -> None:
    for seed, change in enumerate((0.0, 4.0)):
        path = run("statsq", seed).files.root / "noise.parquet"
        frame = pd.read_parquet(path)
        frame["top1"] = 90.0 + change + np.where(frame["where"] == "none", 0.0, frame["trial"] * (1 + seed))
        frame.to_parquet(path)
    row = noise(params).loc[("statsq", "boundary", 0.01)]
    assert row["trials"] == 3 and row["n"] == 2
    assert row["top1_mean"] == pytest.approx((91 + 96) / 2) and row["top1_sd"] == pytest.approx(5 / 2**0.5)
    assert row["top1_sd_of_trials"] == pytest.approx((1 + 2) / 2)
    assert pd.isna(noise(params).loc[("statsq", "none", 0.0)]["top1_sd_of_trials"])


def test_better_trials_are_those_below_the_converged_model_of_their_own_run(params: Params) -> None:
    path = run("statsq", 1).files.root / "noise.parquet"
    frame = pd.read_parquet(path)
    frame.loc[frame["where"] == "none", "train_loss"] = 0.2  # all trials of this seed are below
    frame.to_parquet(path)
    table = noise(params)
    assert table.loc[("statsq", "boundary", 0.005)]["better_mean"] == pytest.approx((100 / 3 + 100) / 2)
    assert table.loc[("statsq", "random", 0.005)]["better_mean"] == pytest.approx((0 + 100) / 2)
    assert table.loc[("statsq-qkr", "random", 0.005)]["better_mean"] == 0
    assert pd.isna(table.loc[("statsq", "none", 0.0)]["better_mean"])


def test_missing_noise_says_how_to_make_it(params: Params) -> None:
    (run("statsq", 1).files.root / "noise.parquet").unlink()
    with pytest.raises(UserError, match=r"seed1/noise\.parquet does not exist; make it with: snakemake"):
        write_noise_table(Grid(params, "digits"))


def edit_probe(variant: str, seed: int, **values: object) -> None:
    path = run(variant, seed).files.root / "probe.json"
    write_json(path, read_json(path) | values)


def test_lift_sums_over_heads_before_it_divides(params: Params) -> None:
    heads = [{"q": 1.0, "k": 2.0, "chance": 2.0, "same": 6.0, "other": 2.0}]
    heads += [{"q": 3.0, "k": 4.0, "chance": 12.0, "same": 15.0, "other": 19.0}]
    for seed in (0, 1):
        edit_probe(
            "statsq", seed, coupling=[{"block": 0, "head": i, "steps": 9} | head for i, head in enumerate(heads)]
        )
    write_coupling(Grid(params, "digits"))
    row = pd.read_csv(REPORT / "tables/coupling.csv").set_index("variant").loc["statsq"]
    assert (row["q_mean"], row["k_mean"]) == (2.0, 3.0)
    assert (row["lift_mean"], row["lift_other_mean"]) == (1.5, 1.5)
    assert row["lift_mean"] != np.mean([6 / 2, 15 / 12])


def test_codes_are_said_to_be_own_or_shadow_and_annealed_runs_have_no_row(params: Params) -> None:
    write_coupling(Grid(params, "digits"))
    table = pd.read_csv(REPORT / "tables/coupling.csv")
    assert dict(zip(table["variant"], table["codes"], strict=True)) == {"statsq": "own", "statsq-qkr": "shadow"}


def test_a_model_without_attention_has_no_row_and_a_table_may_be_empty(params: Params) -> None:
    for variant, left in (("statsq", ["statsq-qkr"]), ("statsq-qkr", [])):
        for seed in (0, 1):
            edit_probe(variant, seed, coupling=[], coupling_codes="own")
        write_coupling(Grid(params, "digits"))
        assert list(pd.read_csv(REPORT / "tables/coupling.csv")["variant"]) == left
    written = [(REPORT / "tables/coupling").with_suffix(f".{suffix}") for suffix in ("md", "tex", "html")]
    assert all("lift, same head" in path.read_text() for path in written)


def test_a_lift_that_cannot_be_is_a_dash(params: Params) -> None:
    alone = {"block": 0, "head": 0, "steps": 9, "q": 1.0, "k": 1.0, "chance": 1.0, "same": 2.0, "other": None}
    still = alone | {"q": 0.0, "chance": 0.0, "same": 0.0, "other": 0.0}
    for seed in (0, 1):
        edit_probe("statsq", seed, coupling=[alone])
        edit_probe("statsq-qkr", seed, coupling=[still])
    write_coupling(Grid(params, "digits"))
    table = pd.read_csv(REPORT / "tables/coupling.csv").set_index("variant")
    assert table.loc["statsq", "lift_mean"] == 2.0 and pd.isna(table.loc["statsq", "lift_other_mean"])
    assert pd.isna(table.loc["statsq-qkr", "lift_mean"]) and table.loc["statsq-qkr", "q_mean"] == 0


def test_shares_by_distance_are_of_the_steps_in_the_bin() -> None:
    bins = {"left": [0.0, 0.2], "weight_steps": [200, 0], "gradient_turns": [50, 0], "reversals": [4, 0]}
    data = by_distance([(run("statsq", 0), {"boundary": bins})])
    assert list(data["distance"]) == [0.1, 0.35]
    assert (data["turns"][0], data["reversals"][0]) == (25.0, 0.02)
    assert data[["turns", "reversals"]].iloc[1].isna().all()


def test_the_figure_shows_each_variant_with_the_band(params: Params, drawn: Callable[[str], dict[str, Figure]]) -> None:
    figures = drawn("ofq.report.parts.probes")
    for seed in (0, 1):
        path = run("statsq", seed).files.root / "probe.json"
        boundary = read_json(path)["boundary"]
        edit_probe("statsq", seed, boundary=boundary | {"gradient_turns": [*boundary["gradient_turns"][:-1], 700]})
    write_boundary(Grid(params, "digits"))
    turns, reversals = figures["boundary"].axes
    labels = turns.get_legend_handles_labels()[1]
    assert {"statsq", "statsq-qkr", "band of boundary range 0.005"} <= set(labels) and "statsq-cga" not in labels
    assert turns.get_yscale() == "linear" and reversals.get_yscale() == "symlog"
    line = next(line for line in reversals.lines if line.get_label() == "statsq")
    assert len(line.get_ydata()) == 25 and line.get_ydata()[-1] == 0 and reversals.get_ylim()[0] < 0, "0 has a place"
    upper = next(line for line in turns.lines if line.get_label() == "statsq")
    assert len(upper.get_ydata()) == 24 and min(upper.get_ydata()) > 10, "the last bin does not stretch the axis"
    assert "statsq 7," in turns.texts[0].get_text(), "it is told in words"
