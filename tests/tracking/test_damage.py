"""What is damaged, changed or not ours: one line, and the rest is mirrored."""

import contextlib
import hashlib
import json
import sqlite3
from pathlib import Path

import pytest

from ofq.errors import UserError
from ofq.tracking import mirror as tracking
from ofq.tracking import store
from tests.tracking.mirrored import STATSQ, client, finish, ids, stored


def test_a_locked_store_is_one_line_and_in_the_pipeline_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    finish(STATSQ)
    monkeypatch.setattr(store, "_PATIENCE", 0.1)
    with contextlib.closing(sqlite3.connect("mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match=r"database is locked; .* python -m ofq track$"):
            tracking.track()
        tracking.track(keep_going=True)
    assert "MLflow store sqlite:///mlflow.db: database is locked" in caplog.text
    assert "locked" in json.loads(tracking.stamp("digits").read_text())["error"]
    tracking.track()
    assert "error" not in json.loads(tracking.stamp("digits").read_text())


def test_a_damaged_store_is_one_line() -> None:
    finish(STATSQ)
    Path("mlflow.db").write_text("no database\n" * 100)
    with pytest.raises(UserError, match="file is not a database"):
        tracking.track()


def test_the_server_of_the_environment_is_used_and_its_password_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    finish(STATSQ)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9") as error:
        tracking.track()
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_log_is_named() -> None:
    finish(STATSQ)
    STATSQ.files.events.write_text("{}x\n")
    with pytest.raises(UserError, match=f"event log of {STATSQ} is damaged"):
        tracking.track()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("events.jsonl", '{"event": "step", "step": 100, "train/loss": NaN}\n'),
        ("events.jsonl", '{"event": "step", "step": 100, "train/loss": "low"}\n'),
        ("events.jsonl", '{"event": "step", "train/loss": 1.0}\n'),
        ("events.jsonl", "[1, 2]\n"),
        ("metrics.json", "{}"),
        ("metrics.json", "[]"),
        ("run.json", "{}"),
        ("run.json", '{"state": "x", "finished": "soon", "seconds": 1.0, "digests": {"code": "x", "inputs": {}}}'),
        ("run.json", '{"state": 3}'),
    ],
)
def test_a_run_of_another_form_is_named_and_the_others_are_mirrored(file: str, content: str) -> None:
    finish(STATSQ)
    finish(STATSQ.teacher)
    path = STATSQ.files.root / file
    path.write_text(path.read_text() + content if file == "events.jsonl" else content)
    with pytest.raises(UserError, match=f"^not mirrored: .*{STATSQ}.*; delete it and run snakemake again$") as error:
        tracking.track()
    assert "\n" not in str(error.value)
    assert set(stored()) == {"fp teacher s0"}
    finish(STATSQ)
    tracking.track()
    assert set(stored()) == {"fp teacher s0", "w2a2 statsq s0"}


def test_a_log_or_result_that_was_changed_since_is_not_mirrored() -> None:
    for file in ("events", "metrics"):
        finish(STATSQ)
        path = getattr(STATSQ.files, file)
        info = json.loads(STATSQ.files.info.read_text())
        info["digests"]["outputs"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
        STATSQ.files.info.write_text(json.dumps(info))
        tracking.track()
        path.write_text(path.read_text().replace("54.0", "99.9"))
        with pytest.raises(UserError, match=f"not mirrored: {path} was changed since it was published"):
            tracking.track()
        assert stored()["w2a2 statsq s0"].data.metrics["final/top1"] == 54.0


def test_only_what_was_made_here_and_is_replaced_goes() -> None:
    finish(STATSQ)
    table = Path("results/digits/report/tables/main.csv")
    table.parent.mkdir(parents=True)
    table.write_text("variant,top1\n")
    tracking.track()
    before = ids()
    experiment = client().get_experiment_by_name("digits").experiment_id
    # A run with the tag that ours have, a run in the trash, a logged model, a trace, notes beside our files.
    strange = client().create_run(experiment, tags={"run": str(STATSQ)}, run_name="mine").info.run_id
    trashed = client().create_run(experiment, run_name="trashed").info.run_id
    client().delete_run(trashed)
    root = Path("mlartifacts/digits")
    mine = [root / name for name in ("models/m-1/artifacts/MLmodel", "traces/tr-1/artifacts/traces.json", "notes.txt")]
    mine += [root / run / "artifacts/plot.png" for run in (strange, trashed, *before.values())]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    table.write_text("variant,top1\nstatsq,1\n")
    finish(STATSQ, offset=0.25)
    tracking.track()
    tracking.track()
    assert all(path.exists() for path in mine)
    assert set(stored()) == {"w2a2 statsq s0", "report", "mine"} and ids()["mine"] == strange
    for run in before.values():
        assert [path.name for path in (root / run).rglob("*") if path.is_file()] == ["plot.png"]
    client().restore_run(trashed)


@pytest.mark.parametrize("older", [False, True])
def test_the_id_of_another_attempt_is_said_to_be_one(older: bool) -> None:
    finish(STATSQ)
    tracking.track()
    path = tracking.stamp("digits")
    content = json.loads(path.read_text())
    if older:
        del content["results"]
        path.write_text(json.dumps(content))
    assert tracking.is_current(tracking.read_stamp("digits"), STATSQ)
    finish(STATSQ, finished="2026-01-03T03:04:05+00:00")
    assert not tracking.is_current(tracking.read_stamp("digits"), STATSQ)


def test_a_tag_says_whether_the_tree_was_that_of_the_commit() -> None:
    finish(STATSQ, git="0123abc", dirty=True, changed=["params.yaml"])
    finish(STATSQ.teacher, git="0123abc", dirty=False)
    tracking.track()
    assert stored()["w2a2 statsq s0"].data.tags["git.dirty"] == "true"
    assert stored()["fp teacher s0"].data.tags["git.dirty"] == "false"


def test_nothing_to_mirror_is_one_line(root: Path) -> None:
    with pytest.raises(UserError, match="there are no runs"):
        tracking.track()
    assert {path.name for path in root.iterdir()} == {"mlflow.db"}
