"""Jobs from the warm process: same numbers, same exit codes, same signals as jobs of their own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ofq.cli.main import main
from tests.conftest import Project

TEACHER = "digits/vit_micro/fp/teacher/seed0"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, dict[str, str]]]:
    """A project and the environment that leads its jobs to a running warm process."""
    project = Project(tmp_path_factory.mktemp("warm"))
    project.params["recipes"]["digits"]["teacher"]["steps"] = 240
    project.write_params()
    assert project.ofq("data", "digits").returncode == 0
    with project.served(tmp_path_factory.mktemp("s") / "socket") as env:
        yield project, env


def test_a_warm_job_gives_the_same_bits_as_a_process_of_its_own(served: tuple[Project, dict[str, str]]) -> None:
    project, env = served
    files = [
        project.root / "results" / TEACHER / name for name in ("model.safetensors", "metrics.json", "events.jsonl")
    ]
    found = []
    for environment in (env, {}):
        done = project.run("python", "-m", "ofq", "teacher", TEACHER, env=environment)
        assert done.returncode == 0, done.stderr
        assert "step 240/240" in done.stderr, "progress comes out where the caller's output goes"
        found.append([path.read_bytes() for path in files])
    assert found[0] == found[1]


def test_a_mistake_in_a_warm_job_is_the_callers_exit_code_and_line(served: tuple[Project, dict[str, str]]) -> None:
    project, env = served
    done = project.run("python", "-m", "ofq", "teacher", "digits/vit_micro/fp/teachr/seed0", env=env)
    assert done.returncode == 2
    assert "did you mean 'teacher'?" in done.stderr and done.stderr.count("\n") == 1


def test_stopping_a_warm_job_saves_it_and_the_same_command_goes_on(served: tuple[Project, dict[str, str]]) -> None:
    project, env = served
    job = subprocess.Popen(
        [sys.executable, "-m", "ofq", "teacher", TEACHER],
        cwd=project.root, env=project.env | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert job.stderr is not None
    job.stderr.readline()
    job.send_signal(signal.SIGTERM)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step" in err
    done = project.run("python", "-m", "ofq", "teacher", TEACHER, env=env)
    assert done.returncode == 0 and "resumed after step" in done.stderr


def test_a_job_of_a_study_on_a_card_does_not_go_to_the_warm_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA does not outlive a fork."""
    asked: list[str] = []
    monkeypatch.setenv("OFQ_WARM_SOCKET", "/nobody")
    monkeypatch.setenv("OFQ_OWN_PROCESS", "cifar10 digits")
    monkeypatch.setattr("ofq.cli.main.run", lambda name, arguments: 7)
    monkeypatch.setattr("ofq.cli.main.warm.delegate", lambda address, job: asked.append(job[1]["run"]) or 0)
    for study, code in (("digits", 7), ("digits-lr", 0), ("fashion", 0)):
        assert main(["teacher", f"{study}/vit/fp/teacher/seed0"]) == code
    assert asked == ["digits-lr/vit/fp/teacher/seed0", "fashion/vit/fp/teacher/seed0"]


def test_killing_the_caller_kills_the_warm_job(served: tuple[Project, dict[str, str]]) -> None:
    project, env = served
    job = subprocess.Popen(
        [sys.executable, "-m", "ofq", "teacher", TEACHER],
        cwd=project.root, env=project.env | env, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert job.stderr is not None
    job.stderr.readline()
    lock = next((project.root / "runs").rglob("lock"))
    child = int(lock.read_text().split()[1])
    assert child != job.pid
    assert " ".join(psutil.Process(child).cmdline()).strip() == f"ofq teacher {TEACHER}", "ps says which run it trains"
    job.kill()
    job.wait()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_caller_that_hangs_holds_up_nobody(served: tuple[Project, dict[str, str]]) -> None:
    project, env = served
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.connect(env["OFQ_WARM_SOCKET"])
        command = [sys.executable, "-m", "ofq", "teacher", "digits/vit_micro/fp/teachr/seed0"]
        done = subprocess.run(command, cwd=project.root, env=project.env | env, capture_output=True, timeout=60)
    assert done.returncode == 2


def test_without_a_server_a_job_runs_in_its_own_process(tmp_path: Path) -> None:
    project = Project(tmp_path)
    done = project.run("python", "-m", "ofq", "teacher", TEACHER, env={"OFQ_WARM_SOCKET": str(tmp_path / "nobody")})
    assert done.returncode == 2 and "manifest.json does not exist" in done.stderr


def has_socket(pid: int) -> bool:
    """Whether a process holds a socket."""
    with contextlib.suppress(FileNotFoundError):
        return any(str(link.readlink()).startswith("socket:") for link in Path(f"/proc/{pid}/fd").iterdir())
    return False


def test_jobs_that_wait_for_the_warm_process_do_not_outlive_a_killed_snakemake(tmp_path: Path) -> None:
    project = Project(tmp_path)
    address = tmp_path / "folder" / "socket"
    address.parent.mkdir()
    start = "import subprocess, sys; subprocess.Popen([sys.executable, '-m', 'ofq', 'warm', sys.argv[1]]).wait()"
    snakemake = subprocess.Popen([sys.executable, "-c", start, str(address)], cwd=tmp_path, env=project.env)
    while not address.exists():
        assert snakemake.poll() is None
        time.sleep(0.01)
    command = [sys.executable, "-m", "ofq", "teacher", TEACHER]
    env = project.env | {"OFQ_WARM_SOCKET": str(address)}
    jobs = [subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    while not all(has_socket(job.pid) for job in jobs):
        assert [job.poll() for job in jobs] == [None] * 3
        time.sleep(0.01)
    time.sleep(0.2)  # they have asked, and the warm process imports libraries for seconds
    snakemake.kill()
    snakemake.wait()
    for job in jobs:
        _, err = job.communicate(timeout=60)
        assert job.returncode == 1 and "the snakemake of this job is ending" in err
    deadline = time.monotonic() + 30
    while address.parent.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not address.parent.exists(), "its folder goes with it, as nobody else is left to remove it"
