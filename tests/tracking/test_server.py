"""A real MLflow server on the loopback: what is mirrored there is whole and once, whenever the server went away."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests  # type: ignore[import-untyped]

from ofq.errors import UserError
from ofq.tracking import mirror
from tests.tracking.mirrored import STATSQ, begin, finish, write

_PATIENCE = 300  # seconds


class Server:
    """A server with a database and artifacts in a folder; it may be killed, and started again at the same place."""

    def __init__(self, folder: Path, empty_store: Path) -> None:
        self.folder = folder
        (folder / "server.db").write_bytes(empty_store.read_bytes())
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        env = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=env, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            try:
                if requests.get(f"{self.uri}/health", timeout=5).ok:
                    return
            except requests.RequestException:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
            time.sleep(0.2)
        pytest.fail(f"no server after {_PATIENCE} s")

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    def stored(self) -> dict[str, Any]:
        """The runs of the study ``digits`` by name, none of them twice."""
        runs = self.client.search_runs([self.client.get_experiment_by_name("digits").experiment_id])
        assert len({run.info.run_name for run in runs}) == len(runs)
        return {run.info.run_name: run for run in runs}

    def points(self, run: Any, name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, name)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), empty_store)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return running


def test_runs_are_mirrored_whole_and_a_second_time_nothing_is(server: Server, tmp_path: Path) -> None:
    finish(STATSQ, points=400)  # more points, and more settings, than a server takes in one call
    lines = [json.loads(line) for line in STATSQ.files.events.read_text().splitlines()]
    lines[0]["config"]["more"] = {f"setting{number}": number for number in range(150)}
    write(STATSQ.files.events, lines)
    finish(STATSQ.teacher)
    mirror.track()
    found = server.stored()
    assert set(found) == {"w2a2 statsq s0", "fp teacher s0"}
    run = found["w2a2 statsq s0"]
    assert server.points(run, "val/top1") == [(100 * n, 50.0 + n) for n in range(1, 401)]
    assert len(server.points(run, "osc/share")) == len(server.points(run, "train/loss")) == 400
    assert len(run.data.params) > 150 and run.data.params["more.setting149"] == "149"
    assert run.data.tags["variant"] == "statsq" and run.info.status == "FINISHED"
    for file in (STATSQ.files.metrics, STATSQ.files.info):
        copy = server.client.download_artifacts(run.info.run_id, file.name, str(tmp_path))
        assert Path(copy).read_bytes() == file.read_bytes()
    mirror.track()
    again = server.stored()
    assert {name: run.info.run_id for name, run in again.items()} == {n: run.info.run_id for n, run in found.items()}
    assert len(server.points(again["w2a2 statsq s0"], "val/top1")) == 400


def test_a_server_that_is_killed_in_the_middle_has_everything_once_when_it_is_back(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    finish(STATSQ.teacher)
    finish(STATSQ)
    mirror.track()
    before = server.stored()
    finish(STATSQ, points=6)
    attach = mirror._Mirror._attach

    def killed(self: Any, *arguments: Any) -> None:
        server.kill()
        attach(self, *arguments)

    capfd.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(mirror._Mirror, "_attach", killed)
        with pytest.raises(UserError, match=rf"^MLflow store {server.uri}: .* python -m ofq track$") as error:
            mirror.track()
    assert "\n" not in str(error.value)
    mirror.track(keep_going=True)  # it is still away
    assert "error" in (mirror.read_stamp("digits") or {})
    said = capfd.readouterr()
    assert "Retrying" not in said.err and "Traceback" not in said.err
    server.start()
    half = server.client.search_runs([server.client.get_experiment_by_name("digits").experiment_id])
    assert "" in {run.data.tags["mirrored"] for run in half}, "it was killed while it wrote"
    mirror.track()
    after = server.stored()
    assert set(after) == {"w2a2 statsq s0", "fp teacher s0"}
    assert after["fp teacher s0"].info.run_id == before["fp teacher s0"].info.run_id
    run = after["w2a2 statsq s0"]
    assert server.points(run, "val/top1") == [(100 * n, 50.0 + n) for n in range(1, 7)]
    names = {file.path for file in server.client.list_artifacts(run.info.run_id)}
    assert names == {"metrics.json", "run.json"} and run.info.status == "FINISHED"
    assert (mirror.read_stamp("digits") or {})["runs"][str(STATSQ)] == run.info.run_id


def test_a_run_that_was_made_twice_by_a_call_that_was_tried_again_is_there_once(server: Server) -> None:
    finish(STATSQ)
    mirror.track()
    kept = server.stored()["w2a2 statsq s0"].info
    tags = {"run": str(STATSQ), "mirrored": ""}
    server.client.create_run(kept.experiment_id, tags=tags, run_name="w2a2 statsq s0")
    mirror.track()
    assert server.stored()["w2a2 statsq s0"].info.run_id == kept.run_id


def test_mlflow_sends_nothing_about_its_use(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    from mlflow.telemetry import utils

    monkeypatch.setattr(utils, "_IS_IN_CI_ENV_OR_TESTING", False)  # it would be off in every test
    assert not utils.is_telemetry_disabled()
    begin(STATSQ, points=1)
    mirror.track()
    assert utils.is_telemetry_disabled()
