"""The drill: a few kills for real, and what makes it fail."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ofq.runs.paths import Run
from tests.conftest import ROOT
from tools.drill import __main__ as command_line
from tools.drill.compare import compare
from tools.drill.course import Course, GivenUp, Strike, victim_of
from tools.drill.main import Verdict, drill
from tools.drill.observe import RunFolder, leftovers
from tools.drill.plan import Kill, draw
from tools.drill.processes import MARK, Process, Processes
from tools.drill.study import Copy, ShortStudy
from tools.drill.table import comparison_table, strike_table, summary

TINY: dict[str, Any] = {
    "teacher": {"lr": 1e-2, "min_lr": 1e-4, "batch_size": 16, "steps": 150, "warmup": 0.1},
    "qat": {"lr": 8e-3, "min_lr": 1e-3, "batch_size": 16, "steps": 150},
    "cga": {"steps": 20},
}
RUNS = ShortStudy().runs
STATSQ = Run("drill", "vit_micro", "w2a2", "statsq", 0)


def test_a_short_study_ends_the_same_after_three_kills(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    passed = drill(3, seed=3, study=ShortStudy(variants=("statsq",), recipe=TINY))
    shown = capsys.readouterr()
    assert passed, shown.out + shown.err
    last = shown.out.splitlines()[-1]
    assert last.startswith("3 kills, ") and "10 files of 2 runs" in last and "all equal to the undisturbed run" in last
    assert "seed 3: python -m tools.drill --kills 3 --seed 3 makes the same choices again" in shown.err


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
        assert len({kill.run for kill in kills} - {None}) >= 4


def test_a_seed_makes_the_same_choices_again() -> None:
    assert draw(20, 7, RUNS) == draw(20, 7, RUNS)
    assert draw(20, 7, RUNS) != draw(20, 8, RUNS)


def sleeper(tmp_path: Path, mark: str | None, *words: str) -> "subprocess.Popen[bytes]":
    """A process with a command line and a log like a job's."""
    log = tmp_path / "logs" / f"{STATSQ}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    env = {name: value for name, value in os.environ.items() if name != MARK} | ({MARK: mark} if mark else {})
    module = tmp_path / "ofq.py"
    if not module.exists():  # written once: an earlier process may be about to read it
        module.write_text("import time; time.sleep(60)")
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "ofq", *words], cwd=tmp_path, env=env | {"PYTHONPATH": str(tmp_path)}, stdout=file
        )


def scanned(processes: Processes, count: int, *, ours: bool = True) -> dict[int, Process]:
    """The processes by number, once that many (of ``python -m ofq``) show what they are, which takes a moment."""
    deadline = time.monotonic() + 30
    while sum((living.role != "other") == ours for living in processes.scan(1.0)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return {living.pid: living for living in processes.scan(1.0)}


def test_only_processes_that_carry_the_mark_are_found_and_by_what_they_do(tmp_path: Path) -> None:
    processes = Processes(tmp_path, "mine")
    started = [
        sleeper(tmp_path, "mine", "qat", str(STATSQ)),
        sleeper(tmp_path, "another's", "qat", str(STATSQ)),
        sleeper(tmp_path, None, "qat", str(STATSQ)),
        sleeper(tmp_path, "mine", "warm", str(tmp_path / "s" / "socket")),
    ]
    try:
        found = scanned(processes, 2)
        assert set(found) == {started[0].pid, started[3].pid}
        caller, trainer = found[started[0].pid], found[started[3].pid]
        assert (caller.role, caller.run) == ("caller", STATSQ)
        assert (trainer.role, trainer.run) == ("trainer", STATSQ), "a fork of the warm process prints to its job's log"
        assert caller.send(signal.SIGKILL) and started[0].wait() == -signal.SIGKILL
        assert not caller.send(signal.SIGKILL), "it is gone, and nobody else can be met"
        assert [living.pid for living in processes.scan(2.0)] == [started[3].pid]
        processes.end()
        assert started[3].wait(timeout=5) == -signal.SIGKILL
        assert started[1].poll() is None and started[2].poll() is None
    finally:
        for child in started:
            child.kill()
            child.wait()


def test_an_orphan_is_still_ours(tmp_path: Path) -> None:
    command = "import subprocess, sys; subprocess.Popen(['sleep', '60'], start_new_session=True)"
    subprocess.run([sys.executable, "-c", command], env=os.environ | {MARK: "mine"}, check=True)
    processes = Processes(tmp_path, "mine")
    assert len(scanned(processes, 1, ours=False)) == 1
    processes.end()
    assert processes.scan(2.0) == []


def process(role: str, run: Run | None = None, step: str = "") -> Process:
    return Process(pid=1, handle=-1, since=0.0, role=role, step=step, log=f"logs/{run}.log" if run else "")


LSQ = Run("drill", "vit_micro", "w2a2", "lsq", 0)
LIVING = [
    process("warm process", step="warm"),
    process("caller", LSQ, "qat"),
    process("trainer", LSQ, "warm"),
    process("caller", STATSQ, "qat"),
    process("step", step="tables"),
]


@pytest.mark.parametrize(
    ("kill", "chosen"),
    [
        (Kill("training", "trainer", signal.SIGKILL, run=LSQ), LIVING[2]),
        (Kill("training", "caller", signal.SIGKILL, run=LSQ), LIVING[1]),
        (Kill("job", "trainer", signal.SIGKILL, run=STATSQ), LIVING[3]),
        (Kill("job", "trainer", signal.SIGKILL, run=STATSQ.teacher), None),
        (Kill("training", "warm process", signal.SIGTERM, run=LSQ), LIVING[0]),
        (Kill("report", "trainer", signal.SIGKILL, step="tables"), LIVING[4]),
        (Kill("report", "caller", signal.SIGKILL, step="figures"), None),
        (Kill("report", "warm process", signal.SIGKILL, step="tables"), LIVING[0]),
    ],
)
def test_a_kill_meets_the_process_that_it_is_meant_for(kill: Kill, chosen: Process | None) -> None:
    assert victim_of(kill, LIVING) is chosen


@dataclass(frozen=True)
class Fake(Copy):
    """A copy in which another program stands for Snakemake."""

    command: tuple[str, ...] = ()

    def start(self, *options: str) -> "subprocess.Popen[bytes]":
        self.log.write_text("what it printed")
        return subprocess.Popen(self.command, env=os.environ | self.mark, start_new_session=True)


def course(tmp_path: Path, *command: str, kills: Sequence[Kill] = (), patience: float = 30.0) -> Course:
    copy = Fake(tmp_path / "disturbed", ShortStudy(), {MARK: "mine"}, command)
    processes = Processes(copy.root, "mine")
    return Course(copy, processes, [*kills], seed=0, patience=patience, limit=60, say=print)


def test_snakemake_that_fails_with_nothing_killed_is_told_and_ends_the_drill(tmp_path: Path) -> None:
    failing = course(tmp_path, "false")
    with pytest.raises(GivenUp, match="3 times in a row"):
        failing.run()
    assert failing.starts == 3 and failing.failed_starts == ["what it printed"] * 3


def test_snakemake_that_does_not_end_ends_the_drill(tmp_path: Path) -> None:
    with pytest.raises(GivenUp, match="did not end"):
        course(tmp_path, "sleep", "60", patience=0.1).run()
    Processes(tmp_path, "mine").end()


def test_snakemake_is_killed_and_started_again(tmp_path: Path) -> None:
    kills = [Kill("start", victim, signal.SIGTERM, seconds=0.05) for victim in ("snakemake", "group")]
    made = course(tmp_path, "sleep", "1.5", kills=kills)
    made.run()
    assert made.starts == 3 and made.failed_starts == []
    assert [strike.victim for strike in made.strikes] == ["snakemake", "snakemake and its group"]
    assert [strike.what_came_after for strike in made.strikes] == ["snakemake ended by SIGTERM"] * 2


def test_one_difference_or_one_problem_fails_the_drill(tmp_path: Path) -> None:
    left, right, folder = pair(tmp_path)
    made = course(tmp_path, "true")
    equal = compare(left, right)
    assert Verdict(made, equal, []).passed
    assert not Verdict(made, equal, ["left behind: runs/x"]).passed
    (folder / "model.safetensors").unlink()
    found = compare(left, right)
    assert not Verdict(made, found, []).passed
    assert summary(made, found, failed=True).endswith(
        f"1 differ from the undisturbed run: {STATSQ}/model.safetensors (only in one); the drill failed"
    )


def finished(root: Path) -> Path:
    """Two files of a run, its trainer state, and a table."""
    folder = root / "results" / str(STATSQ)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    (folder / "run.json").write_text(f'{{"seconds": {random.random()}}}')
    torch.save({"step": 3, "moments": torch.tensor([0.0, float("nan")])}, folder / "trainer.pt")
    tables = root / "results/drill/report/tables"
    tables.mkdir(parents=True)
    (tables / "main.csv").write_text("n\n1\n")
    return folder


def pair(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two equal projects, and the run's folder in the second."""
    left, right = tmp_path / "undisturbed", tmp_path / "disturbed"
    finished(left)
    return left, right, finished(right)


def test_equal_files_are_equal_whatever_run_json_says(tmp_path: Path) -> None:
    left, right, _ = pair(tmp_path)
    found = compare(left, right)
    assert found.equal and found.runs == 1
    assert found.compared == {str(STATSQ): 2, "drill/report": 1}


def test_one_bit_is_a_difference(tmp_path: Path) -> None:
    left, right, folder = pair(tmp_path)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[100] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    found = compare(left, right)
    assert not found.equal and found.different == {str(STATSQ): ["model.safetensors"]}
    assert "w2a2 statsq s0  2      different: model.safetensors" in comparison_table(found)


@pytest.mark.parametrize("side", [0, 1])
def test_a_file_that_is_in_one_only_is_a_difference(tmp_path: Path, side: int) -> None:
    roots = pair(tmp_path)[:2]
    (roots[side] / "results/drill/report/tables/main.csv").unlink()
    found = compare(*roots)
    assert found.different == {"drill/report": ["tables/main.csv (only in one)"]}


def test_nothing_to_compare_is_not_equality(tmp_path: Path) -> None:
    assert not compare(tmp_path / "a", tmp_path / "b").equal


def test_state_and_temporary_files_of_a_finished_study_are_found(tmp_path: Path) -> None:
    finished(tmp_path)
    assert list(leftovers(tmp_path, "drill")) == []
    state = tmp_path / "runs" / str(STATSQ) / "abc"
    state.mkdir(parents=True)
    assert list(leftovers(tmp_path, "drill")) == [], "an empty folder is none"
    (state / "events.jsonl").touch()
    (tmp_path / "results" / str(STATSQ) / ".tmp-model-x").touch()
    assert list(leftovers(tmp_path, "drill")) == [
        f"runs/{STATSQ}/abc/events.jsonl",
        f"results/{STATSQ}/.tmp-model-x",
    ]


def test_what_a_run_is_doing_is_read_from_its_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, STATSQ, 400)
    assert folder.doing() == "starting"
    state = tmp_path / "runs" / str(STATSQ) / "abc"
    state.mkdir(parents=True)
    (state / "checkpoint-000000131.pt").touch()
    assert folder.doing() == "training, step 131 of 400 saved"
    (state / ".tmp-checkpoint-000000140-x.pt").touch()
    assert folder.doing() == "writing state, step 131 saved"
    results = tmp_path / "results" / str(STATSQ)
    results.mkdir(parents=True)
    (results / ".tmp-model-x").touch()
    assert folder.doing() == "publishing"
    log = tmp_path / "logs" / f"{STATSQ}.log"
    log.parent.mkdir(parents=True)
    log.write_text("")
    assert folder.went_on() is None
    log.write_text("w2a2 statsq s0  resumed after step 131\n")
    assert folder.went_on() == "resumed after step 131"
    log.write_text("w2a2 statsq s0   step  10/400  loss  1.0\n")
    assert folder.went_on() == "began at the start"


def test_the_table_has_a_row_for_each_kill() -> None:
    kill = Kill("training", "trainer", signal.SIGKILL, run=STATSQ, share=0.3)
    strike = Strike(kill, 12.34, 1, "trainer w2a2 statsq s0", "training, step 131 of 400 saved", STATSQ, "ended with 1")
    strike.after = "resumed after step 131"
    head, row = strike_table([strike]).splitlines()
    assert head.split() == ["second", "victim", "signal", "in", "the", "middle", "of", "what", "came", "after"]
    assert row == (
        "1  12.3    trainer w2a2 statsq s0  SIGKILL  training, step 131 of 400 saved"
        "  snakemake ended with 1, resumed after step 131"
    )


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_says_whether_all_agree(monkeypatch: pytest.MonkeyPatch, passed: bool, code: int) -> None:
    asked: dict[str, Any] = {}

    def found(kills: int, **options: Any) -> bool:
        asked.update(options, kills=kills)
        return passed

    monkeypatch.setattr(command_line, "drill", found)
    assert command_line.main(["--kills", "3", "--seed", "5"]) == code
    assert (asked["kills"], asked["seed"]) == (3, 5)


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--kills", "0"], "at least one"), (["--keep", "full"], "full is not empty"), ([], "Snakefile not found in")],
)
def test_mistakes_are_one_line(tmp_path: Path, options: list[str], says: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    shutil.copy(ROOT / "params.yaml", tmp_path)
    command = [sys.executable, "-m", "tools.drill", *options]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1
    assert (
        "run from the project's root"
        in subprocess.run(command, cwd=tmp_path / "full", env=environment, capture_output=True, text=True).stderr
    )
