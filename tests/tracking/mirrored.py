"""A project whose runs are mirrored, and what stands in its store."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ofq.config import params
from ofq.config.resolve import resolve
from ofq.runs.paths import Run
from ofq.tracking import store

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


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's root of all tests here: MLflow stays with the file that it opened first."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="session")
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
