"""Which variant is best, and how sure that is."""

from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from ofq.config.grid import Grid
from ofq.config.params import Params
from ofq.report import collect
from ofq.report.parts.best import write_best
from ofq.runs.files import read_json, write_json
from ofq.runs.paths import Run
from tests.report.conftest import Made

TABLE = Path("results/digits/report/tables/best.csv")
ACCURACY = {"lsq": [90.0, 91.0, 90.5, 91.5], "statsq": [92.0, 93.1, 92.4, 93.6], "statsq-qkr": [92.5, 92.9, 92.8, 92.7]}


def best(made: Made, accuracy: dict[str, list[float]]) -> pd.DataFrame:
    """Write the table of a grid with these accuracies by seed, and read it."""
    params: Params = made(bits=["w2a2"], variants=list(accuracy), seeds=list(range(len(accuracy["lsq"]))))
    for variant, values in accuracy.items():
        for seed, top1 in enumerate(values):
            path = Run("digits", "vit_micro", "w2a2", variant, seed).files.metrics
            write_json(path, read_json(path) | {"top1": top1})
    grid = Grid(params, "digits")
    write_best(grid, collect.metrics(grid.students))
    return pd.read_csv(TABLE)


def test_differences_to_the_highest_mean_are_paired_and_corrected(made: Made) -> None:
    table = best(made, ACCURACY)
    assert list(table["variant"]) == ["statsq", "statsq-qkr", "lsq"] and list(table["best"]) == [True, False, False]
    rows = table.set_index("variant")
    p = {name: stats.ttest_rel(ACCURACY[name], ACCURACY["statsq"]) for name in ("lsq", "statsq-qkr")}
    low, high = p["lsq"].confidence_interval()
    assert rows.loc["lsq", ["difference", "low", "high"]].tolist() == pytest.approx([-2.025, low, high])
    assert rows.loc["lsq", "p_adjusted"] == pytest.approx(2 * p["lsq"].pvalue)
    assert rows.loc["statsq-qkr", "p_adjusted"] == pytest.approx(p["statsq-qkr"].pvalue)
    text = TABLE.with_suffix(".md").read_text()
    assert "vit_micro, W2A2: statsq has the highest mean; shown to be worse: 1 of the 2 others." in text


def test_one_seed_decides_nothing_and_says_so(made: Made) -> None:
    table = best(made, {name: values[:1] for name, values in ACCURACY.items()})
    assert list(table["variant"]) == ["statsq-qkr", "statsq", "lsq"]
    assert table["p_adjusted"].isna().all() and table["low"].isna().all()
    assert list(table["difference"].round(2))[1:] == [-0.5, -2.5]
    text = TABLE.with_suffix(".md").read_text()
    assert "-2.50 (spread not known)" in text and "shown to be worse: none of the 2 others." in text


def test_a_single_variant_is_the_best_of_its_kind(made: Made) -> None:
    table = best(made, {"lsq": ACCURACY["lsq"]})
    assert list(table["best"]) == [True] and table["difference"].isna().all()


def test_groups_with_more_seeds_are_named(made: Made) -> None:
    more = {"variants": ["lsq", "statsq", "statsq-qkr"], "seeds": [0, 1, 2]}
    groups = {"further": more, "as-many": more | {"seeds": [3, 4]}, "others": more | {"variants": ["lsq"]}}
    grid = Grid(made(variants=["lsq", "statsq"], seeds=[0, 1], groups=groups), "digits")
    write_best(grid, collect.metrics(grid.students))
    text = TABLE.with_suffix(".md").read_text()
    assert text.rstrip().endswith("Groups with these variants and more seeds: further (3).")
