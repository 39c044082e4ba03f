"""Jobs on a cluster: a short study through a real SLURM of one node gives the bits that it gives without."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from ofq.errors import UserError
from ofq.runs.paths import Run
from ofq.workflow.checks import check_executor
from tests.conftest import ROOT, Project
from tests.workflow.imagenet import run_of, write_imagenet
from tools import slurm
from tools.drill.verdict import compare
from tools.slurm import Cluster, check, one_node

PROFILE = ["--workflow-profile", "profiles/slurm"]
TEACHER = "results/digits/vit_micro/fp/teacher/seed0/metrics.json"
WARNED = 2  # minutes before the end, as the profile has it
RUNS = [Run("digits", "vit_micro", "w2a2", variant, 0) for variant in ("statsq", "lsq")]
# Gone on with by the next snakemake, and given the stand-in for a card.
OPTIONS = ["--retries", "0", "--set-resources", "qat:gpu=1", "--", *(str(run.files.metrics) for run in RUNS)]
# Snakemake asks ever more rarely what became of its jobs, up to three minutes: more than the whole test takes.
ASKS_OFTEN = """
from snakemake_executor_plugin_slurm import Executor
Executor.next_seconds_between_status_checks = property(lambda self: 2, lambda self, seconds: None)
"""


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A SLURM of one node; its parameter is the number of cores."""
    if find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("snakemake-executor-plugin-slurm is not installed")
    try:
        check()
    except UserError as error:
        pytest.skip(f"no SLURM to try: {error}")
    with one_node(getattr(request, "param", 1)) as cluster:
        yield cluster


@pytest.fixture
def start(cluster: Cluster) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a program in a project with the variables of the cluster; it ends with the test."""
    started = []

    def starts(project: Project, *command: str) -> subprocess.Popen[str]:
        env = cluster.environ | project.env | {"PATH": f"{Path(sys.executable).parent}:{cluster.environ['PATH']}"}
        process = subprocess.Popen(
            command, cwd=project.root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield starts
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], object], *, seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.02)


def test_a_study_through_slurm_has_the_same_bits_though_a_node_fails_and_a_job_is_out_of_time(
    cluster: Cluster, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    project = Project(tmp_path / "cluster")
    project.params["studies"]["digits"] |= {"variants": ["statsq", "lsq"], "seeds": [0], "checkpoint_seconds": 0}
    project.params["recipes"]["digits"]["qat"] |= {"steps": 150, "constant_steps": 0}
    project.write_params()
    done = project.run("snakemake", TEACHER)
    assert done.returncode == 0, done.stderr
    alone = copy(project)
    alone.root = tmp_path / "alone"
    shutil.copytree(project.root, alone.root)
    with (project.root / "rules/common.smk").open("a") as rules:
        rules.write(ASKS_OFTEN)

    def state(run: Run) -> Path:
        return project.root / "runs" / str(run)

    def in_training() -> list[Run]:
        return [run for run in RUNS if list(state(run).glob("*/checkpoint-*.pt"))]

    def log(run: Run) -> str:
        return (project.root / "logs" / f"{run}.log").read_text()

    # The node fails under the first of two jobs, and while both wait their settings are edited.
    snakemake = start(project, "snakemake", *PROFILE, *OPTIONS)
    wait_for(in_training)
    undisturbed = start(alone, "snakemake", "--cores", "1", *OPTIONS)
    (failed,) = in_training()
    cluster.crash()
    (timed_out,) = set(RUNS) - {failed}
    _, second = cluster.ask("squeue", "--noheader", "--sort=i", "--format=%i").split()
    job = cluster.ask("scontrol", "show", "job", second)
    assert re.search(r"TresPerJob=gres:gpu:1\b", job) and re.search(r"MinMemoryNode=1500M", job)
    params = project.root / "params.yaml"
    planned = params.read_text()
    params.write_text(planned.replace("lr: 0.002", "lr: 0.0021"))
    assert params.read_text() != planned

    # SLURM tells the other one some time before its limit; it saves, and its job fails.
    wait_for(lambda: timed_out in in_training())
    trainer = int((state(timed_out) / "lock").read_text().split()[1])
    os.kill(trainer, signal.SIGSTOP)
    _, minutes, _ = re.search(r"RunTime=(\d+):(\d+):(\d+)", cluster.ask("scontrol", "show", "job", second)).groups()  # type: ignore[union-attr]
    cluster.ask("scontrol", "update", f"JobId={second}", f"TimeLimit={int(minutes) + WARNED}")
    wait_for(lambda: is_told(trainer))
    with contextlib.suppress(ProcessLookupError):  # SLURM lets what it tells go on
        os.kill(trainer, signal.SIGCONT)
    output, _ = snakemake.communicate(timeout=600)
    assert snakemake.returncode == 1, output
    assert re.search(r"ofq: stopped by SIGTERM after step [1-9]", log(timed_out))
    assert f"a job failed; what it printed stands in logs/{timed_out}.log" in output
    assert re.search(r"resumed after step [1-9]", log(failed)), "SLURM started it again by itself"
    assert project.plan(*(str(run.files.metrics) for run in RUNS)) == {"qat": 2}, "the edit counts from now on"
    params.write_text(planned)
    assert project.plan(*(str(run.files.metrics) for run in RUNS)) == {"qat": 1}

    snakemake = start(project, "snakemake", *PROFILE, *OPTIONS)
    output, _ = snakemake.communicate(timeout=600)
    assert snakemake.returncode == 0, output
    assert re.search(r"resumed after step [1-9]", log(timed_out))
    assert re.search(r"Trained 1 run in \d+:\d\d:\d\d; \d+ CPU-seconds in training, elsewhere; peak memory", output)
    assert not list((project.root / ".snakemake").glob("ofq-settings-*")), "what was handed over is gone"

    output, _ = undisturbed.communicate(timeout=600)
    assert undisturbed.returncode == 0, output
    comparison = compare(alone.root, project.root)
    assert comparison.equal, comparison
    assert {str(run.files.model.relative_to("results")) for run in RUNS} < set(comparison.names)


@pytest.mark.parametrize("cluster", [2], indirect=True, ids=["two cores"])  # one of them for a worker that reads images
def test_a_run_of_the_papers_size_goes_through_slurm(
    cluster: Cluster, start: Callable[..., subprocess.Popen[str]], project: Project
) -> None:
    write_imagenet(project)
    with (project.root / "rules/common.smk").open("a") as rules:
        rules.write(ASKS_OFTEN)
    run = run_of("deit_tiny", "statsq-qkr")
    snakemake = start(project, "snakemake", *PROFILE, "--", str(run.files.metrics))
    output, _ = snakemake.communicate(timeout=600)
    assert snakemake.returncode == 0, output
    assert "Trained 2 runs" in output and "elsewhere" in output
    assert len(re.findall("JobState=COMPLETED", cluster.ask("scontrol", "show", "job"))) == 3, "data, teacher, student"
    assert json.loads((project.root / run.files.metrics).read_text())["steps"] == 2


def is_told(pid: int) -> bool:
    """Whether SIGTERM waits for a process that stands still, or came and ended it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return True
    return any(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1 for line in lines if line.startswith("ShdPnd"))


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("slurm.conf", "configures a SLURM that is here already"),
        ("gres.conf", "configures a SLURM that is here already"),
        ("slurmctld", "slurmctld runs here already"),
        ("munged", "munged runs here already"),
        ("slurmstepd", "slurmstepd runs here already"),
        ("SLURM_CONF", "SLURM_CONF is set"),
        ("SLURM_JOB_ID", "SLURM_JOB_ID is set"),
        ("nothing", "munged is not installed; on Debian and Ubuntu: apt-get install slurm-wlm"),
    ],
)
def test_a_slurm_that_is_there_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str, said: str
) -> None:
    (tmp_path / "slurm").mkdir()
    for name in {"plugstack.conf", there if there.endswith(".conf") else "plugstack.conf"}:
        (tmp_path / "slurm" / name).touch()
    processes = [SimpleNamespace(info={"name": name}) for name in ("bash", there)]
    monkeypatch.setattr(slurm, "_ETC", tmp_path)
    monkeypatch.setattr(slurm, "_PATH", str(tmp_path))
    monkeypatch.setattr(slurm.psutil, "process_iter", lambda fields: processes)
    with pytest.raises(UserError, match=said):
        check({there: "1", "PATH": ""})


def test_the_command_refuses_in_one_line() -> None:
    command = [sys.executable, "-m", "tools.slurm", "sinfo"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"SLURM_JOB_ID": "7"}, capture_output=True, text=True)
    said = "ofq: error: SLURM_JOB_ID is set, so there is a SLURM here already; it is left alone\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_a_command_that_is_not_there_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert slurm.main(["snakemke"]) == 2
    assert capsys.readouterr().err == "ofq: error: snakemke: no such command\n"


def test_where_slurm_is_not_nothing_is_planned_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check_executor(None)
    check_executor("local")
    with pytest.raises(UserError, match="there is no sbatch here"):
        check_executor("slurm")


def test_a_study_is_made_without_its_mirror_where_no_store_is_in_reach(project: Project) -> None:
    whole = project.plan("digits")
    assert whole.pop("track") == 1
    assert project.plan("digits", "--omit-from", "track") == whole
