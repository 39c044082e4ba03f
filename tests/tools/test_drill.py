"""The drill: a few kills for real, and what makes it fail."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ofq.environment import DRILL
from ofq.runs.paths import Run
from tests.conftest import ROOT
from tests.tools.conftest import LSQ, OTHERS, STATSQ, finished
from tools.drill import __main__ as command_line
from tools.drill.__main__ import drill
from tools.drill.course import Course, GivenUp
from tools.drill.plan import Kill, draw
from tools.drill.processes import Processes
from tools.drill.study import PARAMS, Copy

TINY: dict[str, Any] = {
    "teacher": {"lr": 1e-2, "min_lr": 1e-4, "batch_size": 16, "steps": 150, "warmup": 0.1},
    "qat": {"lr": 8e-3, "min_lr": 1e-3, "batch_size": 16, "steps": 150},
    "cga": {"steps": 20},
}
RUNS = [STATSQ.teacher, LSQ, STATSQ, *OTHERS]


def test_a_short_study_ends_the_same_after_three_kills(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(ROOT)
    caplog.set_level(logging.INFO, "ofq.drill")
    params = yaml.safe_load(PARAMS)
    params["recipes"]["drill"] = TINY
    params["studies"]["drill"]["variants"] = ["statsq"]
    passed = drill(3, 3, yaml.safe_dump(params))
    printed = capsys.readouterr().out
    assert passed, printed + caplog.text
    last = printed.splitlines()[-1]
    assert last.startswith("3 kills, ") and "10 files of 2 runs" in last
    assert last.endswith("all equal to the undisturbed run")
    assert "seed 3: python -m tools.drill --kills 3 --seed 3 makes the same choices again" in caplog.text


def test_twenty_kills_meet_every_moment_run_victim_and_signal() -> None:
    for seed in range(20):
        kills = draw(20, seed, RUNS)
        assert {kill.moment for kill in kills} == {
            "start",
            "job",
            "training",
            "checkpoint",
            "publishing",
            "report",
        }
        assert {kill.victim for kill in kills} == {"trainer", "caller", "warm process", "snakemake", "group"}
        assert {kill.signum for kill in kills} == {signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP}
        assert len({kill.target for kill in kills if isinstance(kill.target, Run)}) >= 4


def test_a_seed_makes_the_same_choices_again() -> None:
    assert draw(20, 7, RUNS) == draw(20, 7, RUNS)
    assert draw(20, 7, RUNS) != draw(20, 8, RUNS)


@dataclass(frozen=True)
class Fake(Copy):
    """A copy in which another program stands for Snakemake."""

    command: tuple[str, ...] = ()

    def start(self) -> "subprocess.Popen[bytes]":
        self.log.write_text("what it printed")
        return subprocess.Popen(self.command, env=os.environ | {DRILL: self.mark}, start_new_session=True)


def course(tmp_path: Path, *command: str, kills: Sequence[Kill] = (), patience: float = 30.0) -> Course:
    copy = Fake(tmp_path / "disturbed", "mine", command)
    copy.root.mkdir()
    (copy.root / "params.yaml").write_text(PARAMS)
    return Course(copy, Processes(copy.root, "mine"), kills, patience)


def test_snakemake_that_fails_with_nothing_killed_ends_the_drill(tmp_path: Path) -> None:
    failing = course(tmp_path, "false")
    with pytest.raises(GivenUp, match="failed with nothing killed"):
        failing.run()
    assert failing.starts == 1


def test_snakemake_that_does_not_end_ends_the_drill(tmp_path: Path) -> None:
    processes = Processes(tmp_path, "mine")
    with pytest.raises(GivenUp, match="did not end"):
        course(tmp_path, "sleep", "60", patience=0.1).run()
    assert len(processes.scan()) == 1
    processes.end()


def test_kills_that_meet_nothing_end_the_drill(tmp_path: Path) -> None:
    missing = course(tmp_path, "true", kills=[Kill("training", "trainer", signal.SIGKILL, LSQ, 0.5)])
    with pytest.raises(GivenUp, match="nothing to kill was met in 5 starts"):
        missing.run()
    assert missing.starts == 5 and missing.removed == [LSQ] * 4


def test_snakemake_is_killed_and_started_again(tmp_path: Path) -> None:
    kills = [Kill("start", victim, signal.SIGTERM, 1, 0.05) for victim in ("snakemake", "group")]
    made = course(tmp_path, "sleep", "1.5", kills=kills)
    made.run()
    assert made.starts == 3 and made.orphans == {}
    assert [strike.victim for strike in made.strikes] == ["snakemake", "snakemake and its group"]
    assert [strike.what_came_after for strike in made.strikes] == ["snakemake ended by SIGTERM"] * 2


def test_a_process_that_outlives_its_snakemake_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.drill.course._GRACE_SECONDS", 0.2)
    processes = Processes(tmp_path, "mine")
    leaving = course(tmp_path, "sh", "-c", "sleep 60 & sleep 0.1")
    leaving.run()
    [[number, told]] = leaving.orphans.items()
    assert told == f"other (process {number}) outlived its snakemake by 0 s"
    processes.end()


def nothing(course: Course) -> None:
    """Stands for a course on which all goes well."""


def leave_an_orphan(course: Course) -> None:
    course.orphans[7] = "trainer (process 7) outlived its snakemake by 30 s"


def give_up(course: Course) -> None:
    raise GivenUp("snakemake did not end")


def lose_a_file(course: Course) -> None:
    (course._copy.root / "results" / str(STATSQ) / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("happens", "wrong", "says"),
    [
        (nothing, [], None),
        (nothing, ["left behind: runs/x"], "failed: left behind: runs/x"),
        (leave_an_orphan, [], "failed: trainer (process 7) outlived its snakemake by 30 s"),
        (give_up, [], "failed: snakemake did not end; what it printed"),
        (lose_a_file, [], "w2a2 statsq s0  2      only in one: model.safetensors"),
    ],
)
def test_one_difference_or_one_problem_fails_the_drill(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    happens: Callable[[Course], None],
    wrong: list[str],
    says: str | None,
) -> None:
    def make(copy: Copy, params: str) -> None:
        finished(copy.root)
        (copy.root / "params.yaml").write_text(params)
        copy.log.write_text("what it printed")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(Copy, "make", make)
    monkeypatch.setattr(Copy, "start", lambda copy: subprocess.Popen("true"))
    monkeypatch.setattr(Copy, "problems", lambda copy: wrong)
    monkeypatch.setattr(Course, "run", happens)
    assert drill(3, 3) == (says is None)
    *lines, last = capsys.readouterr().out.splitlines()
    assert last.startswith("0 kills, -1 restarts of snakemake, 2 files of 1 runs and 1 of data and report: ")
    kept = list(tmp_path.iterdir())
    if says is None:
        assert last.endswith(": all equal to the undisturbed run") and kept == []
    else:
        assert says in lines and f"both copies, with their logs, stay in {kept[0]}" in lines
        outcome = "1 differ from" if happens is lose_a_file else "all equal to"
        assert last.endswith(f": {outcome} the undisturbed run; the drill failed")


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_says_whether_all_agree(monkeypatch: pytest.MonkeyPatch, passed: bool, code: int) -> None:
    asked: list[tuple[int, int]] = []

    def fake(kills: int, seed: int) -> bool:
        asked.append((kills, seed))
        return passed

    monkeypatch.setattr(command_line, "drill", fake)
    assert command_line.main(["--kills", "3", "--seed", "5"]) == code
    assert asked == [(3, 5)]


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--kills", "0"], "at least one"), ([], "run from the project's root")],
)
def test_mistakes_are_one_line(tmp_path: Path, options: list[str], says: str) -> None:
    command = [sys.executable, "-m", "tools.drill", *options]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1
