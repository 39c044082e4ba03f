"""A cell of a table, or a figure, leads back to its runs."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from ofq.config import params
from ofq.config.params import Params
from ofq.config.resolve import resolve
from ofq.errors import UserError
from ofq.report.style import save
from ofq.report.why import explain
from ofq.runs.files import write_json
from ofq.runs.paths import Run
from tests.conftest import ROOT

RUNS = [Run("digits", "vit_micro", "w2a2", variant, seed) for variant in ("lsq", "statsq") for seed in (0, 1)]
TABLE = Path("results/digits/report/tables/main.csv")
FIGURES = Path("results/digits/report/figures")


@pytest.fixture(scope="module")
def loaded() -> Params:
    return params.load(ROOT / "params.yaml")


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: Params) -> Path:
    """Four finished runs with a table and a figure of them."""
    monkeypatch.chdir(tmp_path)
    for run in RUNS:
        write_json(run.files.metrics, {"top1": 90.0 + run.seed, "seed": run.seed})
        info = {
            "finished": "2026-01-02T03:04:05+00:00",
            "config": resolve(loaded, run).model_dump(mode="json", exclude_none=True),
            "digests": {"code": f"c0de{run.variant}", "inputs": {"results/digits/data/manifest.json": "ab" * 32}},
            "versions": {"torch": "2.15.0"},
            "machine": {"cpu": "one", "cores": 2},
        }
        write_json(run.files.info, info)
    rows = [
        {"model": "vit_micro", "bits": "w2a2", "variant": name, "n": 2, "top1_mean": 90.5}
        | {"runs": " ".join(str(run) for run in RUNS if run.variant == name)}
        for name in ("lsq", "statsq")
    ]
    TABLE.parent.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(TABLE, index=False)
    save(plt.figure(), FIGURES, "accuracy", map(str, RUNS))
    return tmp_path


def test_a_cell_names_runs_seeds_settings_digests_and_versions(report: Path) -> None:
    text = explain(TABLE, "w2a2", "statsq")
    assert "runs: 2; seeds: 0, 1" in text
    assert "digits/vit_micro/w2a2/statsq/seed1" in text and "lsq" not in text
    assert "quantization.weight          statsq" in text and "train.lr " in text
    assert "c0destatsq" in text and "abababababababab results/digits/data/manifest.json" in text
    assert "torch  2.15.0" in text
    assert "not mirrored; do it with: python -m ofq track" in text


def test_what_differs_between_runs_names_the_runs(report: Path) -> None:
    text = explain(TABLE)
    assert "quantization.weight          lsq  in digits/vit_micro/w2a2/lsq/seed0,1" in text
    assert "quantization.weight          statsq  in digits/vit_micro/w2a2/statsq/seed0,1" in text


def test_mlflow_ids_are_those_that_the_mirror_noted(report: Path) -> None:
    ids = {"store": "sqlite:///mlflow.db", "experiment": "1", "runs": {str(RUNS[2]): "f00d"}}
    Path("results/digits/mlflow.json").write_text(json.dumps(ids))
    text = explain(TABLE, "w2a2", "statsq")
    assert "f00d in sqlite:///mlflow.db" in text and "not mirrored in sqlite:///mlflow.db" in text


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_figure_names_its_runs(report: Path, suffix: str) -> None:
    path = FIGURES / f"accuracy.{suffix}"
    assert "runs: 4; seeds: 0, 1" in explain(path)
    assert "runs: 2; seeds: 0, 1" in explain(path, "w2a2", "lsq")


def test_a_table_of_a_committed_record_shows_the_record(report: Path) -> None:
    folder = Path("results/reference/digits")
    (folder / "tables").mkdir(parents=True)
    (folder / "tables/main.csv").write_bytes(TABLE.read_bytes())
    write_json(folder / "record.json", {"study": "digits", "seeds": [0, 1], "versions": {"torch": "2.0.0"}})
    text = explain(folder / "tables/main.csv", "w2a2", "statsq")
    assert "from results/reference/digits/record.json" in text and "2.0.0" in text and "2.15.0" not in text


@pytest.mark.parametrize(
    ("path", "bits", "variant", "message"),
    [
        (TABLE, "w2a3", None, "unknown bits in .*: 'w2a3'; did you mean 'w2a2'"),
        (TABLE, "w2a2", "statq", "unknown variant in .*: 'statq'; did you mean 'statsq'"),
        (FIGURES / "accuracy.png", None, "statq", "did you mean 'statsq'"),
        (TABLE.with_name("man.csv"), None, None, "does not exist; make it with: snakemake"),
        (FIGURES / "man.png", None, None, "does not exist; make it with: snakemake"),
        (TABLE.with_suffix(".md"), None, None, "name the CSV, PNG or SVG beside it"),
        (Path("other.csv"), None, None, "does not name the runs"),
        (Path("other.svg"), None, None, "does not name its runs"),
        (Path("empty.csv"), None, None, "cannot be read as CSV"),
        (Path("empty.png"), None, None, "cannot be read"),
    ],
)
def test_mistakes_are_one_line(report: Path, path: Path, bits: str, variant: str, message: str) -> None:
    Path("other.csv").write_text("a,b\n1,2\n")
    Path("other.svg").write_text("<svg/>")
    Path("empty.csv").touch()
    Path("empty.png").touch()
    with pytest.raises(UserError, match=message) as error:
        explain(path, bits, variant)
    assert "\n" not in str(error.value)
