"""How far the runs of a study are: runs that wait, train, are finished, failed and were killed, as they really are."""

import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ofq.config.params import load
from ofq.measure.pace import Pace
from ofq.runs.paths import Run
from ofq.runs.standing import FAILED, PROGRESS, Standing, note, standing
from ofq.workflow.watch import look
from ofq.workflow.watch.look import Seen, rest
from tests.conftest import ROOT, Project

RUN = Run("digits", "vit_micro", "w2a2", "statsq", 0)
LSQ, CGA = RUN.sibling("lsq"), RUN.sibling("statsq-cga")
BROKEN = """
from ofq.remedies import Remedy


class Broken(Remedy):
    def __init__(self, model, steps):
        super().__init__()

    def after_update(self, lr):
        raise ValueError("no calm\\nand more")
"""
TRAINING = re.compile(
    rf"training +qat {LSQ} +step (\d+)/600  loss \d+\.\d{{3}}  top1 \d+\.\d\d %  osc \d+\.\d\d %  \d+ images/s"
    r"  left \d:\d\d:\d\d"
)


def until(found: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not found():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.1)


def lines(project: Project, *arguments: str) -> list[str]:
    done = project.ofq("status", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A study with a finished run, and one that failed."""
    project = Project(tmp_path_factory.mktemp("study"))
    (project.root / "broken.py").write_text(BROKEN)
    digits = {"variants": ["statsq", "broken", "lsq", "statsq-cga"], "seeds": [0], "checkpoint_seconds": 0.2}
    project.params["studies"]["digits"] |= digits
    project.params["variants"]["broken"] = {"weight": "lsq", "remedy": {"name": "broken:Broken"}}
    project.write_params()
    project.output = ""  # type: ignore[attr-defined]
    for run in (RUN, RUN.sibling("broken")):
        done = project.run("snakemake", str(run.files.metrics))
        project.output += done.stderr  # type: ignore[attr-defined]
    project.params["recipes"]["digits"]["cga"]["lr"] = 1e-3
    project.write_params()
    return project


def test_a_failed_run_is_named_with_its_reason_and_log(study: Project) -> None:
    head, *runs = lines(study)
    assert head.startswith("digits: 5 runs: 2 finished, 2 waiting, 1 failed; ")
    assert head.endswith("the pace of 3 runs is not known; no snakemake works here now")
    assert [re.split("  +", line)[:2] for line in runs] == [
        ["finished", f"teacher {RUN.teacher}"],
        ["failed", f"qat {RUN.sibling('broken')}"],
        ["waiting", f"qat {LSQ}"],
        ["finished", f"qat {RUN}"],
        ["waiting", f"cga {CGA}"],
    ]
    log = RUN.sibling("broken").log
    assert runs[1].endswith(f"  ValueError: no calm  log: {log}")
    assert "ValueError: no calm" in (study.root / log).read_text()
    assert re.search(r"  top1 \d+\.\d\d %  osc \d+\.\d\d %  took 0:00:\d\d$", runs[3])


def test_snakemake_says_once_how_to_watch(study: Project) -> None:
    said = [line for line in study.output.splitlines() if "to watch" in line]  # type: ignore[attr-defined]
    logs = ["each training: logs/STUDY/MODEL/BITS/VARIANT/seedN.log", f"the training: {RUN.sibling('broken').log}"]
    assert said == [f"ofq: to watch: python -m ofq status digits --watch; log of {log}" for log in logs]


def test_a_run_that_was_killed_is_interrupted_and_not_in_training(study: Project) -> None:
    """By its lock, which went with it: its file says the same as before."""
    study.params["recipes"]["digits"]["qat"]["steps"] = 600
    study.write_params()
    directory = study.root / LSQ.state("")
    with (study.root / "printed").open("w") as printed:
        process = subprocess.Popen(
            ["python", "-m", "ofq", "qat", str(LSQ)], cwd=study.root, env=study.env, stdout=printed, stderr=printed
        )
    try:
        until(lambda: (told := standing(directory)) is not None and told.top1 is not None)
        until(lambda: any(directory.rglob("checkpoint-*.sha256")))
        head, _, _, training, finished, *_ = lines(study)
        assert TRAINING.fullmatch(training), training
        assert "1 training; about " in head and "no snakemake" not in head
        assert re.match(r"waiting .*  replaces an earlier result: qat\.steps 24 -> 600$", finished), finished
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    told = (directory / PROGRESS).read_text()
    _, _, _, killed, *_ = lines(study)
    where = re.search(rf"^interrupted +qat {LSQ} +stopped at step (\d+) of 600  will resume after step (\d+)$", killed)
    assert where and int(where[2]) > 0, killed
    assert (directory / PROGRESS).read_text() == told
    study.params["recipes"]["digits"]["qat"]["lr"] = 1e-3
    study.write_params()
    assert lines(study)[3].endswith("of 600  begins anew"), "its state is that of another rate"


def test_it_needs_no_torch_and_answers_at_once(study: Project) -> None:
    script = (
        "import sys, time\nstart = time.process_time()\nfrom ofq.cli.main import main\nassert main(['status']) == 0\n"
        "assert not {'torch', 'timm', 'pandas', 'snakemake', 'mlflow'} & {*sys.modules}\n"
        "print(time.process_time() - start)"
    )
    done = study.run("python", "-c", script)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 4, "it takes some one second"


def test_watching_a_pipe_tells_of_changes_and_ends_with_the_study(study: Project) -> None:
    study.params["studies"]["digits"]["variants"] = ["lsq"]
    study.params["recipes"]["digits"]["qat"]["steps"] = 24
    study.write_params()
    directory = study.root / LSQ.state("")
    (directory / FAILED).write_text('{"error": "of before", "log": null}')
    with (study.root / "watched").open("w") as watched:
        command = ["python", "-m", "ofq", "status", "--watch"]
        watcher = subprocess.Popen(command, cwd=study.root, env=study.env, stdout=watched)
    until(lambda: bool((study.root / "watched").read_text()))
    assert study.ofq("qat", str(LSQ)).returncode == 0
    assert watcher.wait(timeout=60) == 0
    told = (study.root / "watched").read_text()
    assert told.startswith("digits: 2 runs: 1 finished, 1 failed; ")
    assert re.search(rf"\nfailed +qat {LSQ} +of before  no log\n", told), told
    assert re.search(rf"\nfinished +qat {LSQ} .*\ndigits: 2 runs: 2 finished\n$", told), told
    assert not [path for path in directory.iterdir() if path.is_file()], "a run that ends well leaves nothing there"


def test_a_terminal_gets_a_table_of_what_fits(study: Project) -> None:
    size = {"TERM": "xterm", "COLUMNS": "130", "LINES": "9", "FORCE_COLOR": "1"}
    done = study.run("python", "-m", "ofq", "status", env=size)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", done.stdout).splitlines()
    assert shown[1].split() == ["state", "step", "run"]
    assert done.stdout != "\n".join(shown) and "fp/teacher/seed0" in shown[-2] + shown[-3]
    assert shown[-1].rstrip() == "logs: logs/digits/MODEL/BITS/VARIANT/seedN.log"


def test_a_wrong_name_is_one_line(study: Project) -> None:
    for arguments, said in ((["digitz"], "did you mean 'digits'?"), (["digits", "other"], "unknown group of study")):
        done = study.ofq("status", *arguments)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.count("\n") == 1 and said in done.stderr


def test_where_locks_lie_elsewhere_a_fresh_file_shows_a_trainer_of_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for elsewhere, ago, trained in (("locks", 10, True), ("locks", 1000, False), ("", 10, False)):
        monkeypatch.setenv("OFQ_LOCKS", elsewhere)
        told = Standing(3, 10, time.time() - ago)
        note(RUN.state(""), told)
        assert look._is_trained(RUN, told) == trained
    assert [path.name for path in tmp_path.iterdir()] == ["runs"], "nothing is made by looking"


def test_what_is_left_is_shared_by_the_runs_that_are_trained_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace(step=0.01, image=0.0, start=0.0, memory_mib=1, published=1, state=1)
    monkeypatch.setattr(
        look, "paces_of", lambda params, runs, *given, **more: (dict.fromkeys(set(runs) - {LSQ}, pace), "")
    )
    params = load(ROOT / "params.yaml")
    seen = [Seen(look.Made("qat", RUN.sibling(name)), "training", left=30.0) for name in ("statsq-qkr", "statsq")]
    assert rest(params, "digits", seen) == look.Rest(30.0, 2, 0)
    waiting = [Seen(look.Made("cga", CGA), "waiting"), Seen(look.Made("qat", LSQ), "waiting")]
    assert rest(params, "digits", [*seen, waiting[0]]) == look.Rest(31.5, 2, 0), "300 steps"
    assert rest(params, "digits", [*seen, *waiting]) == look.Rest(31.5, 2, 1)
