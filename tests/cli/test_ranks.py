"""Runs of several processes, started by torchrun: they stop, die, resume and end as one process does."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml

from ofq.cli.ranks import _end_of
from ofq.cli.run import LOST
from ofq.config import params
from ofq.config.resolve import keeping, resolve
from ofq.data.prepare import prepare
from ofq.runs import standing, states
from ofq.runs.paths import Run
from ofq.training.qat import run_qat
from ofq.training.teacher import run_teacher
from tests.conftest import ROOT, SMALL, Project

RUN = Run("digits", "vit_micro", "w2a2", "lsq", 0)
RECIPE = SMALL | {"qat": SMALL["qat"] | {"steps": 40}}
KILLED = (
    "ofq: error: process 1 of the run was killed by SIGKILL, often for want of memory; what was saved is kept, and the"
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained teacher, and settings by which students are trained in two processes."""
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["recipes"]["digits"] = RECIPE
    content["studies"]["digits"] |= {"hardware": {"devices": 2}, "checkpoint_seconds": 0}
    Path("params.yaml").write_text(yaml.safe_dump(content))
    loaded = params.load()
    prepare("digits", loaded.studies["digits"].data)
    run_teacher(RUN.teacher, resolve(loaded, RUN.teacher))
    return tmp_path


def started() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ofq", "qat", str(RUN)]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def step() -> int:
    return max((state.step for state in states.of_run(RUN.state(""))), default=0)


def shown() -> tuple[int, standing.Failure | None]:
    """The last step that the run's file shows, and the mark of a failure."""
    told = standing.standing(RUN.state(""))
    assert told is not None
    return told.step, standing.failure(RUN.state(""))


def end_second(process: subprocess.Popen[str], signum: int, *, after: int) -> list[str]:
    """Signal the second of a run's processes when a step has been saved, and return what was printed in the end."""
    deadline = time.monotonic() + 300
    while step() <= after:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    ranks = {child.environ()["RANK"]: child for child in psutil.Process(process.pid).children()}
    assert ranks.keys() == {"0", "1"}
    ranks["1"].send_signal(signum)
    lines = process.communicate(timeout=300)[1].splitlines()
    for rank in ranks.values():
        assert not rank.is_running()
    return [line for line in lines if "step" not in line.split("ofq: ")[0]]


def test_a_run_stops_and_dies_as_a_whole_and_goes_on_with_another_number_of_processes(here: Path) -> None:
    loaded = params.load()
    config, kept = resolve(loaded, RUN), keeping(loaded, "digits")
    assert kept.devices == 2
    shutil.copytree(here, "undisturbed", ignore=shutil.ignore_patterns("undisturbed"))
    process = started()
    lines = end_second(process, signal.SIGTERM, after=0)
    stopped = step()
    assert lines == [f"ofq: stopped by SIGTERM after step {stopped}; the same command goes on from there"]
    assert process.returncode == 128 + signal.SIGTERM
    assert shown() == (stopped, None), "by the first process"
    process = started()
    (line,) = end_second(process, signal.SIGKILL, after=stopped)
    assert line.startswith(KILLED) and process.returncode == 128 + signal.SIGKILL
    assert stopped < step() < RECIPE["qat"]["steps"]
    until = step()
    assert shown()[1] is None and states.trainer(RUN.state("")) is None, "it was killed, and did not fail"
    run_qat(RUN, config, replace(kept, devices=1))
    info, metrics = (json.loads(path.read_text()) for path in (RUN.files.info, RUN.files.metrics))
    (earlier,) = info["history"]
    assert (earlier["devices"], earlier["until_step"]) == (2, until) and "devices" not in info
    os.chdir("undisturbed")
    run_qat(RUN, config)
    alone = json.loads(RUN.files.metrics.read_text())
    assert "history" in json.loads(RUN.files.info.read_text())
    assert metrics["loss"] == pytest.approx(alone["loss"], rel=0.02)
    assert metrics["reversals"] == pytest.approx(alone["reversals"], rel=0.05)


def test_snakemake_trains_in_two_processes(project: Project) -> None:
    project.params["studies"]["digits"]["hardware"] = {"devices": 2, "images_at_once": 16}
    project.write_params()
    teacher = Run("digits", "vit_micro", "fp", "teacher", 0)
    target = str(teacher.files.metrics)
    done = project.run("snakemake", "--cores", "2", target)
    assert done.returncode == 0, done.stderr
    info = json.loads((project.root / teacher.files.info).read_text())
    assert (info["devices"], info["images_at_once"]) == (2, 16)
    assert "hardware" not in info["config"]
    log = (project.root / "logs/digits/vit_micro/fp/teacher/seed0.log").read_text().splitlines()
    assert len([line for line in log if "step 24/24" in line]) == 1, "the first process tells"
    project.params["studies"]["digits"]["hardware"] = {}
    project.write_params()
    assert project.plan(target) == {}


def failure(exitcode: int, line: str | None = None, timestamp: int = 5) -> SimpleNamespace:
    data = {"message": line or "<NONE>"}
    name = signal.Signals(-exitcode).name if exitcode < 0 else "<N/A>"
    return SimpleNamespace(exitcode=exitcode, error_file_data=data, timestamp=timestamp, signal_name=lambda: name)


@pytest.mark.parametrize(
    ("failures", "line", "code"),
    [
        ([failure(2, "ofq: error: first", 4), failure(2, "ofq: error: second", 5)], "ofq: error: first\n", 2),
        ([failure(LOST, "ofq: error: lost", 4), failure(2, "ofq: error: full", 5)], "ofq: error: full\n", 2),
        ([failure(143, "ofq: stopped by SIGTERM", 4), failure(2, "ofq: error: full", 5)], "ofq: error: full\n", 2),
        ([failure(143, "ofq: stopped by SIGTERM", 4), failure(-15)], "ofq: stopped by SIGTERM\n", 143),
        ([failure(LOST, "ofq: error: lost", 4)], "ofq: error: lost\n", 1),
        (
            [failure(LOST, "ofq: error: lost", 4), failure(-11)],
            "ofq: error: process 1 of the run was killed by SIG",
            139,
        ),
        ([failure(1), failure(LOST, "ofq: error: lost", 4)], "", 1),
    ],
)
def test_the_first_to_fail_has_the_last_word(
    failures: list[SimpleNamespace], line: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _end_of(dict(enumerate(failures))).code == code
    assert capsys.readouterr().err.startswith(line)
