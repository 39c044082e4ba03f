"""MLflow mirrors the event logs: whole, once, and never in the way of training."""

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from ofq.config.grid import Grid
from ofq.config.resolve import resolve
from ofq.export.deploy import deployed
from ofq.export.packed import write_packed
from ofq.runs.paths import Run
from ofq.runs.provenance import file_digest
from ofq.tracking import mirror
from ofq.tracking import mirror as tracking
from ofq.tracking.store import Store
from tests.export.small import prepared
from tests.tracking.mirrored import DIGESTS, PARAMS, STATSQ, begin, client, curve, finish, ids, stored


def test_runs_stand_flat_in_one_experiment_for_each_study() -> None:
    finish(STATSQ)
    finish(STATSQ.teacher)
    swept = Grid(PARAMS, "digits-lr").runs[-1]
    finish(swept)
    tracking.track()
    assert set(stored()) == {"w2a2 statsq s0", "fp teacher s0"}
    assert set(stored("digits-lr")) == {swept.label}
    assert not any("mlflow.parentRunId" in run.data.tags for run in stored().values())


def test_tags_say_what_a_run_is_and_where_it_came_from() -> None:
    annealed = Run("digits", "vit_micro", "w2a2", "statsq-qkr-cga", 1)
    finish(annealed, git="0123abc")
    tracking.track("digits")
    tags = stored()["w2a2 statsq-qkr-cga s1"].data.tags
    coordinates = {"study": "digits", "model": "vit_micro", "bits": "w2a2", "variant": "statsq-qkr-cga", "seed": "1"}
    switches = {"statsq": "true", "qkr": "true", "cga": "true"}
    origin = {"run_key": resolve(PARAMS, annealed).key(str(DIGESTS)), "git": "0123abc", "digest.code": "c0de"}
    assert tags.items() >= (coordinates | switches | origin | {"run": str(annealed)}).items()
    assert "digest.inputs" in tags


def test_a_run_trained_outside_a_git_checkout_has_no_commit() -> None:
    finish(STATSQ)
    tracking.track()
    assert "git" not in stored()["w2a2 statsq s0"].data.tags


def test_parameters_are_the_resolved_configuration() -> None:
    finish(STATSQ)
    tracking.track()
    logged = stored()["w2a2 statsq s0"].data.params
    assert logged["quantization.weight"] == "statsq"
    assert logged["quantization.qkr"] == "false"
    assert float(logged["train.lr"]) == resolve(PARAMS, STATSQ).train.lr


def test_curves_hold_every_point_of_the_log_and_results_stand_apart() -> None:
    finish(STATSQ, points=4)
    tracking.track()
    run = stored()["w2a2 statsq s0"]
    assert curve(run, "val/top1") == [(100, 51.0), (200, 52.0), (300, 53.0), (400, 54.0)]
    assert set(run.data.metrics) == {"train/loss", "val/top1", "osc/share", "final/top1", "final/osc_share"}
    assert curve(run, "final/top1") == [(0, 54.0)]
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 60_000


def test_an_unchanged_run_is_left_alone() -> None:
    finish(STATSQ)
    tracking.track()
    before = ids()
    tracking.track()
    assert ids() == before
    assert len(curve(stored()["w2a2 statsq s0"], "val/top1")) == 4


def test_an_exported_model_is_an_artifact_of_its_run(caplog: pytest.LogCaptureFixture) -> None:
    def artifacts() -> set[str]:
        folder = Store.chosen().folder(stored()["w2a2 statsq s0"].info.artifact_uri)
        assert folder
        return {str(path.relative_to(folder)) for path in folder.glob("export/*")}

    finish(STATSQ)
    STATSQ.files.model.write_bytes(b"weights")
    tracking.track()
    assert artifacts() == set()
    before = ids()
    model, about = prepared(weight="statsq")
    digests = {"code": "c0de", "weights": file_digest(STATSQ.files.model)}
    write_packed(STATSQ.files.packed, deployed(model), about.model_copy(update={"digests": digests}))
    tracking.track()
    assert ids() == before and artifacts() == {"export/packed.safetensors"}
    assert stored()["w2a2 statsq s0"].data.tags["exported"]

    finish(STATSQ, offset=1.0)  # trained again; what was exported is of the weights before
    STATSQ.files.model.write_bytes(b"other weights")
    tracking.track()
    assert ids() != before and artifacts() == set()
    assert not caplog.records

    STATSQ.files.packed.write_bytes(b"no such file")
    tracking.track()
    assert artifacts() == set() and "packed.safetensors is damaged" in caplog.text


def test_a_rerun_replaces_its_run() -> None:
    finish(STATSQ)
    finish(STATSQ.teacher)
    tracking.track()
    before = ids()
    finish(STATSQ, offset=0.25)
    tracking.track()
    after = ids()
    assert after["w2a2 statsq s0"] != before["w2a2 statsq s0"]
    assert after["fp teacher s0"] == before["fp teacher s0"]
    assert curve(stored()["w2a2 statsq s0"], "train/loss")[0] == (100, 2.25)
    assert len(curve(stored()["w2a2 statsq s0"], "train/loss")) == 4
    assert {path.name for path in Path("mlartifacts/digits").iterdir()} == set(after.values())


def test_a_run_in_training_grows_and_stays_the_same_run_to_its_end() -> None:
    begin(STATSQ, points=1)
    tracking.track()
    first = stored()["w2a2 statsq s0"]
    assert first.info.status == "RUNNING"
    begin(STATSQ, points=3)
    tracking.track()
    assert [step for step, _ in curve(first, "val/top1")] == [100, 200, 300]
    finish(STATSQ, points=4)
    tracking.track()
    last = stored()["w2a2 statsq s0"]
    assert last.info.run_id == first.info.run_id and last.info.status == "FINISHED"
    assert [step for step, _ in curve(last, "val/top1")] == [100, 200, 300, 400]


def test_a_line_that_is_being_written_waits_for_its_end() -> None:
    path = begin(STATSQ, points=2)
    path.write_text(path.read_text() + '{"event": "step", "st')
    tracking.track()
    assert [step for step, _ in curve(stored()["w2a2 statsq s0"], "val/top1")] == [100, 200]


def test_a_run_that_resumed_from_an_earlier_step_has_no_point_twice() -> None:
    begin(STATSQ, points=3)
    tracking.track()
    begin(STATSQ, points=2)
    tracking.track()
    assert [step for step, _ in curve(stored()["w2a2 statsq s0"], "val/top1")] == [100, 200]


def test_a_run_that_is_trained_anew_is_shown_in_place_of_its_old_results() -> None:
    finish(STATSQ)
    tracking.track()
    begin(STATSQ, points=1)
    tracking.track()
    assert [step for step, _ in curve(stored()["w2a2 statsq s0"], "val/top1")] == [100]


def test_a_writer_that_died_leaves_no_point_twice() -> None:
    finish(STATSQ)
    tracking.track()
    client().set_tag(ids()["w2a2 statsq s0"], "mirrored", "")
    tracking.track()
    assert len(curve(stored()["w2a2 statsq s0"], "val/top1")) == 4


def test_a_deleted_store_comes_back_with_the_same_metrics(empty_store: Path) -> None:
    finish(STATSQ)
    finish(STATSQ.teacher, offset=0.5)

    def content() -> list[Any]:
        with contextlib.closing(sqlite3.connect("mlflow.db")) as connection:
            query = "select name, key, step, timestamp, value from metrics join runs using (run_uuid) order by 1, 2, 3"
            return connection.execute(query).fetchall()

    tracking.track()
    before = content()
    shutil.copy(empty_store, "mlflow.db")
    tracking.track()
    assert content() == before and len(before) == 2 * (3 * 4 + 2)


def test_the_stamp_names_the_mlflow_run_of_every_run() -> None:
    finish(STATSQ)
    tracking.track()
    content = json.loads(tracking.stamp("digits").read_text())
    assert content["store"] == "sqlite:///mlflow.db"
    assert content["runs"] == {str(STATSQ): ids()["w2a2 statsq s0"]}


def test_results_tables_and_figures_are_artifacts_that_survive_a_move() -> None:
    finish(STATSQ)
    table = Path("results/digits/report/tables/main.csv")
    table.parent.mkdir(parents=True)
    table.write_text("variant,top1\n")
    tracking.track()
    runs = ids()
    assert set(runs) == {"w2a2 statsq s0", "report"}
    root = Path("mlartifacts/digits")
    assert (root / runs["w2a2 statsq s0"] / "artifacts/metrics.json").read_bytes() == STATSQ.files.metrics.read_bytes()
    assert (root / runs["report"] / "artifacts/tables/main.csv").read_text() == table.read_text()
    for run in stored().values():
        assert run.info.artifact_uri == f"mlflow-artifacts:/digits/{run.info.run_id}/artifacts"


def test_a_saved_view_sets_lsq_beside_statsq() -> None:
    for variant in ("lsq", "lsq-midrise", "statsq", "statsq-qkr"):
        finish(Run("digits", "vit_micro", "w2a2", variant, 0))
    finish(Run("digits", "vit_micro", "w3a3", "lsq", 0))
    tracking.track()
    experiment = client().get_experiment_by_name("digits")
    saved = [json.loads(value) for key, value in experiment.tags.items() if key.startswith("mlflow.sharedViewState.")]
    by_name = {view["name"]: json.loads(view["state"]) for view in saved}
    assert set(by_name) == {"LSQ against StatsQ, w2a2", "Results by variant, w2a2", "Results by variant, w3a3"}
    charts = by_name["Results by variant, w2a2"]["compareRunCharts"]
    assert [chart["metricKey"] for chart in charts] == ["val/top1", "osc/share", "train/loss"], "it opens on curves"
    search = by_name["LSQ against StatsQ, w2a2"]["searchFilter"]
    found = client().search_runs([experiment.experiment_id], search)
    assert {run.info.run_name for run in found} == {"w2a2 lsq s0", "w2a2 statsq s0"}


def test_a_run_that_the_settings_no_longer_name_leaves_the_views() -> None:
    finish(STATSQ)
    other = Run("digits", "vit_micro", "w2a2", "statsq", 1)
    finish(other)
    tracking.track("digits", {STATSQ: "main", other: "width"})
    tracking.track("digits", {STATSQ: "main"})
    assert {name: run.data.tags["group"] for name, run in stored().items()} == {
        "w2a2 statsq s0": "main",
        "w2a2 statsq s1": "none",
    }


def test_follow_mirrors_until_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def train_on(_seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise KeyboardInterrupt
        begin(STATSQ, points=looks)

    monkeypatch.setattr(mirror.time, "sleep", train_on)
    tracking.follow()
    assert [step for step, _ in curve(stored()["w2a2 statsq s0"], "val/top1")] == [100, 200]
