"""Snakemake, its jobs and their state: whoever is killed, one plain `snakemake` goes on and nothing is trained twice."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import Project

RUN = "digits/vit_micro/w2a2/statsq/seed0"
METRICS = f"results/{RUN}/metrics.json"
LOG = f"logs/{RUN}.log"


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Data and a teacher; the student takes some seconds and saves its state all the time."""
    project = Project(tmp_path_factory.mktemp("jobs"))
    project.params["studies"]["digits"] |= {"variants": ["statsq"], "seeds": [0], "checkpoint_seconds": 0}
    project.params["recipes"]["digits"]["qat"] |= {"steps": 300, "constant_steps": 0}
    project.write_params()
    done = project.run("snakemake", "results/digits/vit_micro/fp/teacher/seed0/metrics.json")
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture
def project(taught: Project) -> Iterator[Project]:
    """The same with nothing of the student."""
    yield taught
    for path in (f"results/{RUN}", f"runs/{RUN}", LOG):
        subprocess.run(["rm", "-rf", str(taught.root / path)], check=True)


def start(project: Project, *arguments: str) -> subprocess.Popen[str]:
    """Snakemake in a session of its own, which hears Ctrl-C as in a terminal."""
    return subprocess.Popen(
        ["snakemake", METRICS, *arguments],
        cwd=project.root, env=project.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def wait_for(condition: Callable[[], object], *, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.02)


def checkpoints(project: Project) -> list[Path]:
    return sorted((project.root / "runs" / RUN).glob("*/checkpoint-*.pt"))


def trainer(project: Project) -> int:
    """Process id of the trainer that holds the run."""
    return int((project.root / "runs" / RUN / "lock").read_text().split()[1])


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def log(project: Project) -> str:
    return (project.root / LOG).read_text()


def test_after_snakemake_was_killed_one_plain_snakemake_goes_on(project: Project) -> None:
    snakemake = start(project)
    wait_for(lambda: checkpoints(project))
    child = trainer(project)
    snakemake.kill()
    snakemake.wait()
    wait_for(lambda: not alive(child))
    assert "stopped by SIGTERM after step" in log(project), "its job saved and ended"
    assert list((project.root / ".snakemake/locks").iterdir()), "what would ask for --unlock"
    kept = len(checkpoints(project))
    done = project.run("snakemake", METRICS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "an earlier snakemake did not end by itself; its locks are removed" in done.stderr
    assert kept and "resumed after step" in log(project)
    assert not checkpoints(project), "a finished run leaves no state"
    assert "Nothing to be done" in project.run("snakemake", METRICS).stderr


def test_a_live_snakemake_keeps_its_locks(project: Project) -> None:
    snakemake = start(project)
    wait_for(lambda: checkpoints(project))
    child = trainer(project)
    os.kill(child, signal.SIGSTOP)  # so that the first is still at work when the second comes
    second = project.run("snakemake", METRICS)
    os.kill(child, signal.SIGCONT)
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1] == (
        "ofq: error: another snakemake makes some of these files; wait for it or end it, then start this one again"
    )
    assert "unlock" not in second.stderr, "what would break the first"
    assert "its locks are removed" not in second.stderr
    output, _ = snakemake.communicate(timeout=120)
    assert snakemake.returncode == 0, output


def caller(project: Project) -> int:
    """Process id of the job that snakemake started, for which the trainer works."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(project.root) and process.cmdline()[1:5] == ["-m", "ofq", "qat", RUN]:
                return process.pid
    raise AssertionError("no job runs")


@pytest.mark.parametrize("killed", [trainer, caller])
def test_a_killed_job_keeps_its_state_although_its_outputs_are_deleted(
    project: Project, killed: Callable[[Project], int]
) -> None:
    snakemake = start(project)
    wait_for(lambda: checkpoints(project))
    os.kill(killed(project), signal.SIGKILL)
    output, _ = snakemake.communicate(timeout=120)
    said = r"ofq: error: killed by SIGKILL, often for want of memory; step \d+ is kept, and snakemake goes on from there; .*"
    assert re.fullmatch(said, log(project).splitlines()[-1])
    assert log(project).splitlines()[-1] in output
    assert snakemake.returncode == 1 and f"a job failed; what it printed stands in {LOG}" in output
    assert checkpoints(project) and not (project.root / METRICS).exists()
    first = log(project)
    done = project.run("snakemake", METRICS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert log(project).startswith(first), "what the killed job printed is still there"
    assert re.search(r"resumed after step [1-9]", log(project).removeprefix(first))


def test_a_preempted_job_saves_ends_and_is_started_again(project: Project) -> None:
    """A cluster sends SIGTERM to the job; `--retries` starts it again, and it goes on."""
    snakemake = start(project, "--retries", "2")
    wait_for(lambda: checkpoints(project))
    os.kill(trainer(project), signal.SIGTERM)
    output, _ = snakemake.communicate(timeout=120)
    assert snakemake.returncode == 0, output
    assert "Trying to restart job" in output
    assert re.search(r"resumed after step [1-9]", log(project))


# A terminal tells everybody, most else snakemake alone.
@pytest.mark.parametrize(
    ("send", "signum"),
    [(os.killpg, signal.SIGINT), (os.killpg, signal.SIGHUP), (os.kill, signal.SIGINT), (os.kill, signal.SIGTERM)],
)
def test_a_signal_stops_everything_and_plain_snakemake_goes_on(
    project: Project, send: Callable[[int, int], None], signum: signal.Signals
) -> None:
    snakemake = start(project)
    wait_for(lambda: checkpoints(project))
    child = trainer(project)
    send(snakemake.pid, signum)
    output, _ = snakemake.communicate(timeout=120)
    assert snakemake.returncode != 0
    assert not alive(child), "no job outlives it"
    assert "Traceback" not in output + log(project) and "Error" not in output
    assert re.search(r"ofq: stopped by SIG\w+ after step [1-9]", log(project)), "it was not ended at once"
    assert re.fullmatch(
        rf"ofq: stopped by {signum.name}; saved: {RUN} \(step \d+\); go on with: snakemake {METRICS}",
        output.splitlines()[-1],
    )
    done = project.run("snakemake", METRICS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"resumed after step [1-9]", log(project))


def edit_code(project: Project) -> None:
    path = project.root / "src/ofq/quant/quantizers/lsq.py"
    path.write_text(path.read_text() + f"\nADDED = {time.monotonic()}\n")


def stop_in_training(project: Project) -> None:
    snakemake = start(project)
    wait_for(lambda: checkpoints(project))
    os.kill(trainer(project), signal.SIGTERM)
    snakemake.communicate(timeout=120)
    assert checkpoints(project)


def test_under_other_code_a_study_starts_clean_and_says_so_unless_told_to_go_on(project: Project) -> None:
    stop_in_training(project)
    edit_code(project)
    done = project.run("snakemake", METRICS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ofq: warning: the code changed since {RUN} (step " in done.stderr
    assert "snakemake --config resume_across_code=true" in done.stderr
    assert "code changed since step" in log(project) and "resumed" not in log(project)
    assert checkpoints(project), "the earlier state stays"
    subprocess.run(["rm", "-rf", str(project.root / "results" / RUN)], check=True)
    edit_code(project)
    done = project.run("snakemake", METRICS, "--config", "resume_across_code=true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on under other code" in log(project)
    assert '"resume_across_code": true' in (project.root / "results" / RUN / "run.json").read_text()


def test_a_long_study_may_keep_finished_runs_and_go_on_with_others_under_new_code(project: Project) -> None:
    assert project.plan(METRICS) == {"qat": 1}
    edit_code(project)
    teacher = "results/digits/vit_micro/fp/teacher/seed0/metrics.json"
    for module in ("models/backbone.py", "data/reader.py"):
        path = project.root / "src/ofq" / module
        path.write_text(path.read_text() + "\nADDED = 1\n")
    assert project.plan(teacher) == {"data": 1, "teacher": 1}
    project.params["studies"]["digits"]["rerun_on_code"] = False
    project.write_params()
    try:
        assert project.plan(teacher) == {}
        assert project.plan(METRICS) == {"qat": 1}
        stop_in_training(project)
        edit_code(project)
        done = project.run("snakemake", METRICS)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "the code changed" not in done.stderr and "going on under other code" in log(project)
        assert '"rerun_on_code": false' in (project.root / "results" / RUN / "run.json").read_text()
        edit_code(project)
        assert project.plan(METRICS) == {}
        rules = project.root / "rules/train.smk"
        rules.write_text(rules.read_text().replace(" >> {log} 2>&1", " 2>&1 >> {log}"))
        assert project.plan(METRICS) == {}, "nor does another shell text count"
    finally:
        project.params["studies"]["digits"].pop("rerun_on_code")
        project.write_params()
    assert project.plan(METRICS) == {"data": 1, "teacher": 1, "qat": 1}, "back to the rule"
