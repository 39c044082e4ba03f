"""The drill's processes: which are its own, what they do, and which of them a kill meets."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ofq.environment import DRILL
from ofq.runs.paths import Run
from tests.tools.conftest import LSQ, STATSQ
from tools.drill.course import victim_of
from tools.drill.plan import Kill
from tools.drill.processes import Process, Processes


def sleeper(
    tmp_path: Path, mark: str | None, *words: str, log: str = f"logs/{STATSQ}.log"
) -> "subprocess.Popen[bytes]":
    """A process with a command line and a log like a job's."""
    path = tmp_path / log
    path.parent.mkdir(parents=True, exist_ok=True)
    env = {name: value for name, value in os.environ.items() if name != DRILL} | ({DRILL: mark} if mark else {})
    module = tmp_path / "ofq.py"
    if not module.exists():  # written once: an earlier process may be about to read it
        module.write_text("import time; time.sleep(60)")
    with path.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "ofq", *words], cwd=tmp_path, env=env | {"PYTHONPATH": str(tmp_path)}, stdout=file
        )


FORK = """
import os, time
from setproctitle import setproctitle
if not os.fork():
    os.dup2(os.open({log!r}, os.O_WRONLY | os.O_CREAT), 1)
    setproctitle("ofq qat {run}")
time.sleep(60)
"""


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


def test_a_fork_under_a_title_of_its_own_is_found(tmp_path: Path) -> None:
    """The title takes the place of the environment by which the others are found."""
    processes = Processes(tmp_path, "mine")
    (tmp_path / "logs" / str(STATSQ)).parent.mkdir(parents=True)
    script = FORK.format(log=f"{tmp_path}/logs/{STATSQ}.log", run=STATSQ)
    parent = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {DRILL: "mine"})
    try:
        trainer = next(living for living in scanned(processes, 1).values() if living.role != "other")
        assert (trainer.role, trainer.work) == ("trainer", STATSQ) and trainer.system.pid != parent.pid
        processes.end()
        assert not processes.scan()
    finally:
        parent.kill()
        parent.wait()


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
    subprocess.run([sys.executable, "-c", command], env=os.environ | {DRILL: "mine"}, check=True)
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
