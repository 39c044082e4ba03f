"""The drill: a few kills for real, and what makes it fail."""

import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from ofq.runs.paths import Run
from tests.conftest import ROOT
from tools.drill import __main__ as command_line
from tools.drill.__main__ import drill
from tools.drill.course import Course, GivenUp, Strike, victim_of
from tools.drill.observe import RunFolder
from tools.drill.plan import Kill, draw
from tools.drill.processes import MARK, Process, Processes
from tools.drill.study import PARAMS, Copy
from tools.drill.verdict import Comparison, compare, comparison_table, strike_table

TINY: dict[str, Any] = {
    "teacher": {"lr": 1e-2, "min_lr": 1e-4, "batch_size": 16, "steps": 150, "warmup": 0.1},
    "qat": {"lr": 8e-3, "min_lr": 1e-3, "batch_size": 16, "steps": 150},
    "cga": {"steps": 20},
}
LSQ, STATSQ, *OTHERS = (
    Run("drill", "vit_micro", "w2a2", variant, 0)
    for variant in ("lsq", "statsq", "statsq-qkr", "statsq-cga", "statsq-qkr-cga")
)
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


def sleeper(
    tmp_path: Path, mark: str | None, *words: str, log: str = f"logs/{STATSQ}.log"
) -> "subprocess.Popen[bytes]":
    """A process with a command line and a log like a job's."""
    path = tmp_path / log
    path.parent.mkdir(parents=True, exist_ok=True)
    env = {name: value for name, value in os.environ.items() if name != MARK} | ({MARK: mark} if mark else {})
    module = tmp_path / "ofq.py"
    if not module.exists():  # written once: an earlier process may be about to read it
        module.write_text("import time; time.sleep(60)")
    with path.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "ofq", *words], cwd=tmp_path, env=env | {"PYTHONPATH": str(tmp_path)}, stdout=file
        )


def scanned(processes: Processes, count: int, *, ours: bool = True) -> dict[int, Process]:
    """The processes by number, once that many (of ``python -m ofq``) show what they are, which takes a moment."""
    deadline = time.monotonic() + 30
    while sum((living.role != "other") == ours for living in processes.scan()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return {living.system.pid: living for living in processes.scan()}


def test_only_processes_that_carry_the_mark_are_found_and_by_what_they_do(tmp_path: Path) -> None:
    processes = Processes(tmp_path, "mine")
    started = [
        sleeper(tmp_path, "mine", "qat", str(STATSQ)),
        sleeper(tmp_path, "another's", "qat", str(STATSQ)),
        sleeper(tmp_path, None, "qat", str(STATSQ)),
        sleeper(tmp_path, "mine", "warm", str(tmp_path / "s" / "socket")),
        sleeper(tmp_path, "mine", "warm", str(tmp_path / "s" / "socket"), log="disturbed.log"),
        sleeper(tmp_path, "mine", "report", "tables", "drill", log="logs/drill/report/tables.log"),
    ]
    try:
        ours = scanned(processes, 4)
        assert set(ours) == {started[0].pid, *(child.pid for child in started[3:])}
        caller, trainer = ours[started[0].pid], ours[started[3].pid]
        assert (caller.role, caller.work) == ("caller", STATSQ)
        assert (trainer.role, trainer.work) == ("trainer", STATSQ), "a fork of the warm process prints to its run's log"
        assert [str(ours[child.pid]) for child in started[3:]] == [
            "trainer w2a2 statsq s0",
            "warm process",
            "job tables",
        ]
        assert caller.send(signal.SIGKILL) and started[0].wait() == -signal.SIGKILL
        assert not caller.send(signal.SIGKILL), "it is gone, and nobody else can be met"
        assert {living.system.pid for living in processes.scan()} == {child.pid for child in started[3:]}
        processes.end()
        assert started[3].wait(timeout=5) == -signal.SIGKILL
        assert started[1].poll() is None and started[2].poll() is None
    finally:
        for child in started:
            child.kill()
            child.wait()


def test_no_signal_reaches_a_process_that_was_given_the_number_of_one_that_ended(tmp_path: Path) -> None:
    stranger = sleeper(tmp_path, None, "qat", str(STATSQ))
    try:
        ended = psutil.Process(stranger.pid)
        ended._ident = (stranger.pid, 0.0)  # as it is remembered of an earlier process with the same number
        assert not Process(ended, 0.0, "trainer", STATSQ).send(signal.SIGKILL)
        assert not Process(ended, 0.0, "trainer", STATSQ).send(signal.SIGKILL), "nor once it is known to be gone"
        ended._gone, ended._pid_reused = True, False  # seen gone before another was given its number
        assert not Process(ended, 0.0, "trainer", STATSQ).send(signal.SIGKILL)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_an_orphan_is_still_ours(tmp_path: Path) -> None:
    processes = Processes(tmp_path, "mine")
    command = "import subprocess, sys; subprocess.Popen(['sleep', '60'], start_new_session=True)"
    subprocess.run([sys.executable, "-c", command], env=os.environ | {MARK: "mine"}, check=True)
    assert len(scanned(processes, 1, ours=False)) == 1
    processes.end()
    assert processes.scan() == []


def process(role: str, work: Run | str = "") -> Process:
    return Process(psutil.Process(), 0.0, role, work)


LIVING = [
    process("warm process"),
    process("other", LSQ),
    process("caller", LSQ),
    process("trainer", LSQ),
    process("caller", STATSQ),
    process("job", "tables"),
]


@pytest.mark.parametrize(
    ("kill", "chosen"),
    [
        (Kill("training", "trainer", signal.SIGKILL, LSQ), LIVING[3]),
        (Kill("training", "caller", signal.SIGKILL, LSQ), LIVING[2]),
        (Kill("job", "trainer", signal.SIGKILL, STATSQ), LIVING[4]),
        (Kill("job", "trainer", signal.SIGKILL, STATSQ.teacher), None),
        (Kill("training", "warm process", signal.SIGTERM, LSQ), LIVING[0]),
        (Kill("report", "trainer", signal.SIGKILL, "tables"), LIVING[5]),
        (Kill("report", "caller", signal.SIGKILL, "figures"), None),
        (Kill("report", "warm process", signal.SIGKILL, "tables"), LIVING[0]),
    ],
)
def test_a_kill_meets_the_process_that_it_is_meant_for(kill: Kill, chosen: Process | None) -> None:
    assert victim_of(kill, LIVING) is chosen


@dataclass(frozen=True)
class Fake(Copy):
    """A copy in which another program stands for Snakemake."""

    command: tuple[str, ...] = ()

    def start(self) -> "subprocess.Popen[bytes]":
        self.log.write_text("what it printed")
        return subprocess.Popen(self.command, env=os.environ | {MARK: self.mark}, start_new_session=True)


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
    comparison = compare(left, right)
    assert comparison.equal
    assert comparison.names == [
        "drill/report/tables/main.csv",
        *(f"{STATSQ}/{name}" for name in ("model.safetensors", "trainer.pt")),
    ]
    assert [line.split() for line in comparison_table(comparison).splitlines()] == [
        ["files"],
        ["report", "1", "equal"],
        ["w2a2", "statsq", "s0", "2", "equal"],
    ]


def test_one_bit_is_a_difference(tmp_path: Path) -> None:
    left, right, folder = pair(tmp_path)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[100] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    comparison = compare(left, right)
    assert not comparison.equal and comparison.different == [f"{STATSQ}/model.safetensors"]
    assert "w2a2 statsq s0  2      different: model.safetensors" in comparison_table(comparison)


@pytest.mark.parametrize("side", [0, 1])
def test_a_file_that_is_in_one_only_is_a_difference(tmp_path: Path, side: int) -> None:
    roots = pair(tmp_path)[:2]
    (roots[side] / "results/drill/report/tables/main.csv").unlink()
    comparison = compare(*roots)
    assert not comparison.equal and comparison.missing == ["drill/report/tables/main.csv"]
    assert "report          1      only in one: tables/main.csv" in comparison_table(comparison)


def test_nothing_to_compare_is_not_equality(tmp_path: Path) -> None:
    assert not compare(tmp_path / "a", tmp_path / "b").equal
    assert not Comparison([], [], []).equal


HEAD = "output_file\tdate\trule\tlog-file(s)\tstatus\tplan"
KNOWN = "results/drill/data/manifest.json\tnow\tdata\tlogs/drill/data.log\tok\tno update"
UNKNOWN = "results/drill/report/main.csv\tnow\t-\t-\tok\tno update"


@pytest.mark.parametrize(
    ("plan", "summary", "problems"),
    [
        ("Nothing to be done.", [HEAD, KNOWN], []),
        ("job count\ntables 1", [HEAD, KNOWN], ["snakemake -n still plans something: job count | tables 1"]),
        (
            "Nothing to be done.",
            [HEAD, KNOWN, UNKNOWN],
            ["snakemake does not know what made results/drill/report/main.csv"],
        ),
        ("Nothing to be done.", [], ["snakemake --summary knows no file"]),
    ],
)
def test_jobs_to_do_and_files_of_unknown_origin_are_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: str, summary: list[str], problems: list[str]
) -> None:
    def snakemake(command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(command, 0, plan if command[1] == "-n" else "\n".join(summary), "")

    monkeypatch.setattr(subprocess, "run", snakemake)
    assert list(Copy(tmp_path, "mine").problems()) == problems


def test_state_and_temporary_files_of_a_finished_study_are_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left_behind() -> list[str]:
        return [problem for problem in Copy(tmp_path, "mine").problems() if problem.startswith("left behind")]

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "", ""))
    finished(tmp_path)
    state = tmp_path / "runs" / str(STATSQ) / "abc"
    state.mkdir(parents=True)
    assert left_behind() == [], "an empty folder is none"
    (state / "events.jsonl").touch()
    (tmp_path / "results" / str(STATSQ) / ".tmp-model-x").touch()
    assert left_behind() == [
        f"left behind: runs/{STATSQ}/abc/events.jsonl",
        f"left behind: results/{STATSQ}/.tmp-model-x",
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
    assert folder.went_on(0) == ""
    log.write_text("w2a2 statsq s0  resumed after step 131\n")
    assert folder.went_on(0) == "resumed after step 131"
    earlier = folder.log_size
    assert folder.went_on(earlier) == "", "the log is of an earlier process"
    log.write_text(f"{log.read_text()}w2a2 statsq s0   step  10/400  loss  1.0\n")
    assert folder.went_on(earlier) == "began at the start"


def test_the_moments_of_a_run_are_read_from_its_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, STATSQ, 400)
    state, results = tmp_path / "runs" / str(STATSQ) / "abc", tmp_path / "results" / str(STATSQ)
    state.mkdir(parents=True)
    results.mkdir(parents=True)
    assert not folder.has_reached("training", 0.0)
    (state / ".tmp-checkpoint-000000200-x.pt").touch()
    assert folder.has_reached("checkpoint", 0.0) and not folder.has_reached("checkpoint", 0.5)
    (state / ".tmp-checkpoint-000000200-x.pt").rename(state / "checkpoint-000000200.pt")
    assert folder.has_reached("training", 0.5) and not folder.has_reached("training", 0.6)
    assert not folder.has_reached("checkpoint", 0.5)
    (results / "model.safetensors").touch()
    assert not folder.has_reached("publishing", 0.0)
    (results / ".tmp-trainer-x.pt").touch()
    assert folder.has_reached("publishing", 1 / 8) and not folder.has_reached("publishing", 0.5)


def test_a_finished_run_is_removed_as_a_user_would(tmp_path: Path) -> None:
    results = finished(tmp_path)
    (results / ".tmp-model-x").touch()
    manifest = tmp_path / "results/drill/data/manifest.json"
    manifest.parent.mkdir()
    manifest.touch()
    Copy(tmp_path, "mine").remove(STATSQ, data=False)
    assert [path.name for path in results.iterdir()] == [".tmp-model-x"], "what a kill left behind stays to be found"
    Copy(tmp_path, "mine").remove(STATSQ, data=True)
    assert not manifest.exists()


def test_the_table_has_a_row_for_each_kill() -> None:
    kill = Kill("training", "trainer", signal.SIGKILL, STATSQ, 0.3)
    strike = Strike(kill, 12.34, "trainer w2a2 statsq s0", "training, step 131 of 400 saved", "ended with 1")
    strike.went_on = "resumed after step 131"
    head, row = strike_table([strike]).splitlines()
    assert head.split() == ["second", "victim", "signal", "in", "the", "middle", "of", "what", "came", "after"]
    assert row == (
        "1  12.3    trainer w2a2 statsq s0  SIGKILL  training, step 131 of 400 saved"
        "  snakemake ended with 1, resumed after step 131"
    )


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
