"""Pairs of variants, seed by seed."""

from pathlib import Path

import pandas as pd
import pytest

from ofq.config.grid import Grid
from ofq.config.params import Params
from ofq.report.parts.comparison import write_comparison
from ofq.report.why import explain
from ofq.runs.files import read_json, write_json
from ofq.runs.paths import Run
from tests.report.conftest import Made

REPORT = Path("results/digits/report")
TABLE = REPORT / "tables/comparison.csv"


@pytest.fixture
def params(made: Made) -> Params:
    """Two bit widths, two seeds, variants with and without annealing."""
    return made(bits=["w2a2", "w3a3"], variants=["lsq", "statsq", "statsq-cga", "statsq-qkr-cga"])


def compare(params: Params, *pairs: list[str]) -> None:
    study = params.studies["digits"].model_copy(update={"compare": list(pairs)})
    write_comparison(Grid(params.model_copy(update={"studies": {"digits": study}}), "digits"))


def put(bits: str, variant: str, seed: int, **values: float) -> None:
    path = Run("digits", "vit_micro", bits, variant, seed).files.metrics
    write_json(path, read_json(path) | values)


def test_differences_are_paired_by_seed(params: Params) -> None:
    for seed, (first, second) in enumerate([(91.0, 90.0), (96.0, 93.0)]):
        put("w3a3", "statsq", seed, top1=first)
        put("w3a3", "lsq", seed, top1=second)
    compare(params, ["statsq", "lsq"])
    row = pd.read_csv(TABLE).set_index("bits").loc["w3a3"]
    assert (row["variant"], row["against"], row["n"]) == ("statsq", "lsq", 2)
    assert row["top1_mean"] == 2.0 and row["top1_sd"] == pytest.approx(2**0.5)
    assert "| statsq | lsq | 2 | +2.00 [-10.71, +14.71], p 0.295 |" in " ".join(
        TABLE.with_suffix(".md").read_text().split()
    )


def test_rows_follow_bit_widths_and_then_the_pairs_each_once(params: Params) -> None:
    compare(params, ["statsq-cga", "statsq"], ["lsq", "statsq"], ["lsq", "statsq"])
    table = pd.read_csv(TABLE)
    assert list(table["bits"]) == ["w2a2", "w2a2", "w3a3", "w3a3"]
    assert list(table["variant"]) == ["statsq-cga", "lsq"] * 2
    assert set(table["n"]) == {2}


def test_reversals_of_annealing_are_compared_with_those_of_annealing_only(params: Params) -> None:
    compare(params, ["statsq-cga", "statsq"], ["statsq-qkr-cga", "statsq-cga"])
    table = pd.read_csv(TABLE).set_index("variant")
    assert table.loc["statsq-cga", "reversals_mean"].isna().all() and table.loc["statsq-cga", "top1_mean"].notna().all()
    assert table.loc["statsq-qkr-cga", "reversals_mean"].notna().all()
    rows = [line for line in TABLE.with_suffix(".md").read_text().splitlines() if "| statsq-cga " in line]
    assert rows[0].split("|")[-2].strip() == "–"


def test_a_row_leads_back_to_the_runs_of_both(params: Params) -> None:
    for run in Grid(params, "digits").runs:
        info = {"finished": "", "config": {}, "digests": {"code": "", "inputs": {}}, "versions": {}, "machine": {}}
        write_json(run.files.info, info)
    compare(params, ["statsq", "lsq"])
    text = explain(TABLE, "w2a2", "statsq")
    assert "runs: 4; seeds: 0, 1" in text and "w2a2/lsq/seed1" in text and "w3a3" not in text
