"""Claims on networks with batch norms: which studies they speak of, and verdicts on made-up runs whose answer is known."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ofq.config import params
from ofq.config.grid import Grid, all_runs
from ofq.report.claims.pairs import pair
from ofq.report.claims.quantities import Records
from ofq.report.claims.terms import load
from ofq.report.parts.claims import write_claims
from ofq.runs.files import write_json
from ofq.runs.paths import Run
from tests.conftest import ROOT

STUDY = "fashion-cnn"
PARAMS = params.load(ROOT / "params.yaml")
SEEDS = PARAMS.studies[STUDY].seeds
WOBBLE = (-0.3, 0.3, 0.1, -0.1, 0.2, -0.2)  # of seeds, so that differences have a spread; 0 in the mean

Rows = dict[str, dict[str, Any]]
Judge = Callable[[], Rows]


def finish(
    bits: str, variant: str, *, gain: float, top1: float = 80.0, sd: float = 1.0, kl: float = 0.01, swing: float = 1.0
) -> None:
    """Finish the runs of all seeds: re-estimation adds ``gain`` to ``top1``; pointwise layers diverge by 0.004 nats."""
    nan = float("nan")
    for seed, off in zip(SEEDS, WOBBLE, strict=True):
        files = Run(STUDY, "mobilenet28", bits, variant, seed).files
        write_json(
            files.metrics,
            {"seed": seed, "steps": 20, "top1_last": top1, "top1_last_sd": sd + off / 10, "osc_share": 3.0 + off}
            | {"top1_reestimated_last": top1 + gain + swing * off, "top1_reestimated_last_sd": 0.2},
        )
        rows = [
            {"step": step, "group": group, "weights": weights, "share": share + off / 10, "reversals": share}
            | {"channels": channels, "kl_mean": {0: nan, 10: value / 2, 20: value}[step]}
            for step in (0, 10, 20)
            for group, weights, share, channels, value in [
                ("depthwise", 90, 2.0, 10, kl + off / 1000),
                ("depthwise", 270, 2.0, 30, kl + off / 1000),
                ("pointwise", 4000, 5.0, 40, 0.004),
                ("se", 100, 1.0, nan, nan),  # no batch norm behind it
            ]
        ]
        pd.DataFrame(rows).to_parquet(files.root / "oscillation.parquet")


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "claims.yaml", "claims.yaml")

    def judge() -> Rows:
        write_claims(Grid(PARAMS, STUDY))
        return {row["id"]: row for row in json.loads(Path(f"results/{STUDY}/report/claims.json").read_text())}

    return judge


def test_a_gain_beyond_8_bits_and_beyond_held_codes_is_a_difference_of_differences(judged: Judge) -> None:
    finish("w2a32", "nagel", gain=10.0)
    finish("w2a32", "nagel-held", gain=2.0, swing=-1.0)
    finish("w3a32", "nagel", gain=1.0)
    finish("w8a32", "nagel", gain=1.0, swing=-1.0)
    rows = judged()
    beyond, held = rows["reestimation-beyond-8-bits"], rows["reestimation-beyond-held"]
    assert (beyond["effect"], beyond["n"], beyond["unit"]) == (pytest.approx(9.0), len(SEEDS), "points")
    assert held["effect"] == pytest.approx(8.0)
    assert beyond["verdict"] == held["verdict"] == "supported"
    assert {str(Run(STUDY, "mobilenet28", bits, "nagel", 0)) for bits in ("w2a32", "w8a32")} <= set(beyond["runs"])
    assert rows["reestimation-beyond-8-bits-at-3"]["effect"] == pytest.approx(0.0, abs=1e-12)
    assert rows["reestimation-at-8-bits"]["effect"] == pytest.approx(1.0)
    untested = {name for name, row in rows.items() if row["verdict"] == "untested"}
    assert "reestimation-beyond-held-at-3" in untested and "dampening-accuracy-inputs-too" in untested


def test_a_gain_that_8_bits_and_held_codes_have_too_supports_nothing(judged: Judge) -> None:
    finish("w2a32", "nagel", gain=12.0)
    for bits, variant in [("w2a32", "nagel-held"), ("w8a32", "nagel")]:
        finish(bits, variant, gain=12.0, swing=-1.0)
    rows = judged()
    assert rows["reestimation-at-8-bits"]["verdict"] == "supported"
    for name in ("reestimation-beyond-8-bits", "reestimation-beyond-held"):
        assert rows[name]["verdict"] == "undecided" and rows[name]["effect"] == pytest.approx(0.0, abs=1e-12), name


def test_statistics_and_oscillation_are_compared_by_the_groups_of_the_last_step(judged: Judge) -> None:
    finish("w2a32", "nagel", gain=5.0, kl=0.05)
    finish("w8a32", "nagel", gain=5.0, kl=0.01)
    finish("w2a32", "nagel-held", gain=5.0, kl=0.02)
    rows = judged()
    assert rows["depthwise-statistics"]["effect"] == pytest.approx(0.05 - 0.004)
    assert rows["depthwise-statistics"]["verdict"] == "supported"
    assert rows["depthwise-statistics-beyond-8-bits"]["effect"] == pytest.approx(0.04)
    assert rows["depthwise-statistics-beyond-held"]["effect"] == pytest.approx(0.03)
    assert rows["depthwise-oscillates-more"]["effect"] == pytest.approx(-3.0)
    assert rows["depthwise-reverses-more"]["effect"] == pytest.approx(-60.0)


def test_remedies_are_compared_with_the_baseline_by_gap_spread_and_accuracy(judged: Judge) -> None:
    finish("w2a32", "nagel", gain=10.0, top1=70.0, sd=8.0)
    finish("w2a32", "nagel-dampening", gain=4.0, top1=79.0, sd=2.0)
    finish("w2a32", "nagel-freezing", gain=11.0, top1=68.0, sd=9.0)
    rows = judged()
    effects = {
        "dampening-leaves-less-to-restore": -6.0,
        "freezing-leaves-less-to-restore": 1.0,
        "dampening-steadies": -6.0,
        "freezing-steadies": 1.0,
        "reestimation-steadies": -7.8,
        "dampening-accuracy-reestimated": 3.0,
        "freezing-accuracy-reestimated": -1.0,
    }
    assert {name: rows[name]["effect"] for name in effects} == pytest.approx(effects)
    assert rows["reestimation-steadies"]["verdict"] == "supported"


def test_a_run_whose_statistics_were_not_re_estimated_leaves_its_claims_untested(judged: Judge) -> None:
    for seed in SEEDS:
        files = Run(STUDY, "mobilenet28", "w2a32", "nagel", seed).files
        write_json(files.metrics, {"seed": seed, "steps": 20, "top1": 90.0, "osc_share": 3.0})
        row = {"step": 20, "group": "depthwise", "weights": 90, "share": 2.0, "reversals": 2.0}
        pd.DataFrame([row, row | {"group": "pointwise"}]).to_parquet(files.root / "oscillation.parquet")
    rows = judged()
    assert {rows[name]["verdict"] for name in ("depthwise-statistics", "reestimation-steadies")} == {"untested"}


@pytest.mark.parametrize("study", ["digits", "fashion"])
def test_other_studies_have_the_claims_that_they_had(study: str) -> None:
    recorded = json.loads((ROOT / f"results/reference/{study}/claims.json").read_text())
    found = load(PARAMS, ROOT / "claims.yaml").about(Grid(PARAMS, study))
    assert [(row["id"], row["statement"], row["source"]) for row in recorded] == [
        (name, claim.statement, claim.source) for name, claim in found.items()
    ]


@pytest.mark.parametrize("study", ["digits-cnn", "fashion-cnn", "cifar10-cnn", "imagenet-mobilenet"])
def test_studies_that_re_estimate_have_those_on_batch_norms_alone(study: str) -> None:
    file = load(PARAMS, ROOT / "claims.yaml")
    found = file.about(Grid(PARAMS, study))
    assert {claim.topic for claim in found.values()} == set(file.batch_norms)
    assert len(found) + len(file.about(Grid(PARAMS, "digits"))) == len(file.claims)


def test_each_of_these_claims_has_its_runs_in_a_shipped_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    planned: dict[str, set[str]] = {}
    for study in (STUDY, "imagenet-mobilenet"):
        grid = Grid(PARAMS, study)
        runs = [run for run in all_runs(PARAMS, study) if not run.full_precision]
        claims = load(PARAMS, ROOT / "claims.yaml").about(grid)
        planned[study] = {name for name, claim in claims.items() if pair(claim, runs, grid.models, Records()).bits}
    only_there = {
        "reestimation-fewer-bits",
        "dampening-accuracy-inputs-too",
        "freezing-accuracy-inputs-too-at-3",
        "freezing-accuracy-inputs-too-at-4",
    }
    assert planned["imagenet-mobilenet"] == only_there
    assert planned[STUDY] == set(claims) - only_there
