"""MLflow mirrors the event logs: whole, once, and never in the way of training."""

import contextlib
import hashlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from ofq.config import params
from ofq.config.grid import Grid
from ofq.config.resolve import resolve
from ofq.errors import UserError
from ofq.runs.paths import Run
from ofq.tracking import mirror, store
from ofq.tracking import mirror as tracking

ROOT = Path(__file__).resolve().parents[2]
PARAMS = params.load(ROOT / "params.yaml")
DIGESTS = {"code": "c0de", "inputs": {"results/digits/data/manifest.json": "ab" * 32}}
STATSQ = Run("digits", "vit_micro", "w2a2", "statsq", 0)
EVERY = 100  # steps between two points of a curve


def begin(run: Run, *, points: int, offset: float = 0.0) -> Path:
    """The event log of a run in training, with some points of its curves."""
    config = resolve(PARAMS, run)
    path = run.state(config.key(str(DIGESTS))) / "events.jsonl"
    lines: list[dict[str, Any]] = [
        {"event": "start", "run": str(run), "config": config.model_dump(mode="json", exclude_none=True)}
    ]
    for n in range(1, points + 1):
        values = {"train/loss": 2.0 / n + offset, "val/top1": 50.0 + n, "osc/share": 0.5 * n}
        lines.append({"event": "step", "step": n * EVERY, **values})
    write(path, lines)
    return path


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def finish(run: Run, *, points: int = 4, offset: float = 0.0, **info: Any) -> None:
    """What a finished run leaves behind."""
    state = begin(run, points=points, offset=offset)
    lines = [json.loads(line) for line in state.read_text().splitlines()]
    metrics = {"top1": 50.0 + points, "osc_share": 1.5, "seed": run.seed, "steps": points * EVERY}
    shutil.rmtree(state.parent)
    write(run.files.events, [*lines, {"event": "end", **metrics}])
    content = {"finished": "2026-01-02T03:04:05+00:00", "seconds": 60.0, "digests": DIGESTS, **info}
    run.files.info.write_text(json.dumps(content | {"config": lines[0]["config"], "state": state.parent.name}))
    run.files.metrics.write_text(json.dumps(metrics))


def client() -> Any:
    from mlflow import MlflowClient

    return MlflowClient("sqlite:///mlflow.db")


def stored(study: str = "digits") -> dict[str, Any]:
    """The runs of a study's experiment by name."""
    runs = client().search_runs([client().get_experiment_by_name(study).experiment_id])
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {run.info.run_name: run for run in runs}


def curve(run: Any, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client().get_metric_history(run.info.run_id, name)]


def ids() -> dict[str, str]:
    return {name: run.info.run_id for name, run in stored().items()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's root of all tests here: MLflow stays with the file that it opened first."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def empty_store(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without experiments: making one takes seconds."""
    with contextlib.chdir(root), store.Store("sqlite:///mlflow.db").opened():
        return Path(shutil.copy("mlflow.db", tmp_path_factory.mktemp("store")))


@pytest.fixture(autouse=True)
def project(root: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project's root with an empty store and no runs."""
    monkeypatch.chdir(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for folder in ("results", "runs", "mlartifacts"):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copy(empty_store, "mlflow.db")


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
    assert set(by_name) == {"LSQ against StatsQ, w2a2", "Results by bits and variant"}
    search = by_name["LSQ against StatsQ, w2a2"]["searchFilter"]
    found = client().search_runs([experiment.experiment_id], search)
    assert {run.info.run_name for run in found} == {"w2a2 lsq s0", "w2a2 statsq s0"}


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
