"""Each measure reads what it says from the files of a run."""

from pathlib import Path
from typing import Any

import pytest

from ofq.errors import UserError
from ofq.report.claims.quantities import MEASURES, Lacking, Records, Side, quantity
from ofq.runs.files import write_json
from tests.report.claim_runs import finish, run, write_parquet

ONE = run("a", 0)


@pytest.fixture(autouse=True)
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finish(ONE, top1=95.0, top1_best=96.0, loss=0.2, osc_share=5.0, reversals=4.0)


def value(measure: str, **options: Any) -> float | None:
    return quantity(Records(), ONE, Side(measure, "a", **options))


@pytest.mark.parametrize(
    ("measure", "right"), [("top1", 95.0), ("top1_best", 96.0), ("loss", 0.2), ("osc_share", 5.0), ("reversals", 4.0)]
)
def test_metrics(measure: str, right: float) -> None:
    assert value(measure) == right


@pytest.mark.parametrize("measure", MEASURES)
def test_what_was_not_measured_is_none(measure: str) -> None:
    options: dict[str, Any] = {"layers": ["q"], "within": [0.0, 0.02], "where": "random"}
    write_json(ONE.files.metrics, {"seed": 0})
    assert value(measure, **options) is None
    ONE.files.metrics.unlink()
    assert value(measure, **options) is None


def test_groups_of_layers_are_those_of_the_last_step_and_count_by_weights() -> None:
    rows = [(10, "q", 100, 9.0), (20, "q", 100, 1.0), (20, "k", 300, 5.0), (20, "v", 50, 7.0)]
    table = [{"step": s, "group": g, "weights": w, "share": x, "reversals": 2 * x} for s, g, w, x in rows]
    write_parquet(ONE, "oscillation.parquet", table)
    assert value("osc_share", layers=("q", "k")) == 4.0
    assert value("reversals", layers=("v",)) == 14.0
    with pytest.raises(Lacking, match=r"unknown layers in .*oscillation\.parquet: 'qq'; did you mean 'q'\?"):
        value("osc_share", layers=("k", "qq"))


def test_the_density_at_the_thresholds_is_1_where_it_is_even() -> None:
    # 2 bits: codes -2..1, thresholds -1.5, -0.5, 0.5; clipped weights stand at -2 and 1
    bins = [round(-2 + 0.05 * i, 6) for i in range(61)]
    even = [{"bin_left": left, "weights": 1000 if left in (-2.0, 1.0) else 10} for left in bins]
    write_parquet(ONE, "weights.parquet", even)
    assert value("threshold_density") == pytest.approx(1.0)
    at = {-1.55, -1.5, -0.55, -0.5, 0.45, 0.5}
    write_parquet(ONE, "weights.parquet", [row | {"weights": 20} if row["bin_left"] in at else row for row in even])
    assert value("threshold_density") == pytest.approx(20 * 0.5 / (20 * 0.1 + 10 * 0.4))


def test_the_measures_of_the_probe() -> None:
    left = [round(0.02 * i, 2) for i in range(25)]
    turns = [8] + [1] * 24
    heads = [
        {"same": 0.3, "other": 0.12, "chance": 0.1},
        {"same": 0.1, "other": 0.28, "chance": 0.1},
    ]
    write_json(
        ONE.files.root / "probe.json",
        {
            "boundary": {"left": left, "weight_steps": [10] * 25, "gradient_turns": turns, "reversals": [0] * 25},
            "band": {"range": 0.005, "weights": 100, "start": 8, "end": 5, "both": 2},
            "coupling": heads,
        },
    )
    assert value("gradient_turns", within=(0.0, 0.02)) == 80.0
    assert value("gradient_turns", within=(0.0, 0.04)) == 45.0
    assert value("gradient_turns", within=(0.2, 0.5)) == 10.0
    assert value("band_kept") == 25.0
    assert value("coupling") == pytest.approx(2.0) and value("coupling_other") == pytest.approx(2.0)


def test_a_probe_without_a_part_or_with_an_empty_one_measures_nothing() -> None:
    write_json(ONE.files.root / "probe.json", {"band": {"start": 0, "both": 0}, "coupling": []})
    assert [value(name) for name in ("band_kept", "coupling")] == [None, None]
    assert value("gradient_turns", within=(0.0, 0.02)) is None


def test_noise_is_compared_with_the_model_without_it() -> None:
    rows = [("none", 90.0, 0.10), ("boundary", 91.0, 0.09), ("boundary", 88.0, 0.12), ("random", 80.0, 0.5)]
    write_parquet(ONE, "noise.parquet", [{"where": w, "top1": t, "train_loss": x} for w, t, x in rows])
    assert value("noise_top1", where="boundary") == pytest.approx(-0.5) and value("noise_top1", where="random") == -10.0
    assert value("noise_improved", where="boundary") == 50.0
    assert value("noise_best_loss", where="boundary") == pytest.approx(-0.01)


def test_the_path_of_the_steps_is_that_of_the_last_quarter() -> None:
    rows = [
        {"step": step, "layer": "x", "scale": 2.0 if step <= 6 else 1.0 + 0.01 * (step % 2)} for step in range(1, 9)
    ]
    rows += [{"step": step, "layer": "y", "scale": 1.0} for step in range(1, 9)]
    write_parquet(ONE, "annealing.parquet", rows)
    assert value("step_travel") == pytest.approx((1000 * 0.01 / 1.005 + 0) / 2)


def test_a_damaged_file_is_one_line() -> None:
    (ONE.files.root / "noise.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"noise\.parquet cannot be read .*; delete it and run snakemake again"):
        value("noise_top1", where="random")
