"""One trainer a run: the lock is the process's, and goes with it however it ends."""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import IO

import pytest

from ofq.cli import main as cli
from ofq.errors import UserError
from ofq.runs import locks, states
from ofq.workflow.startup import hold_project
from tests.reliability.conftest import run_of


def holder_in_child(path: Path) -> int:
    """A process that holds a lock until it is killed; returns when it does."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with locks.exclusive(path):
            os.write(writer, b"x")
            signal.pause()
        os._exit(0)
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    return pid


def test_the_second_trainer_says_who_holds_the_run_and_ends(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of("statsq")
    before = {path: path.read_bytes() for path in run.files.published}
    monkeypatch.setattr(states.only_trainer, "__kwdefaults__", {"patience": 0.2})
    pid = holder_in_child(run.state("") / "lock")
    try:
        assert cli.main(["qat", str(run)]) == 2
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    error = capsys.readouterr().err
    assert re.fullmatch(
        rf"ofq: error: runs/{run} is being trained by process {pid} on {re.escape(socket.gethostname())}"
        r" since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d; wait for it or end it\n",
        error,
    )
    assert {path: path.read_bytes() for path in run.files.published} == before


def test_a_lock_whose_holder_was_killed_is_not_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    pid = holder_in_child(path)
    with pytest.raises(locks.Held, match=f"process {pid} on"), locks.exclusive(path):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert path.exists(), "the file is there, the lock is not"
    with locks.exclusive(path):
        assert f"process {os.getpid()}" in path.read_text()
    assert not path.exists()


def test_a_trainer_waits_for_one_that_is_about_to_end(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        with locks.exclusive(tmp_path / "lock"):
            (tmp_path / "held").touch()
            time.sleep(0.5)
        os._exit(0)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with states.only_trainer(tmp_path, patience=30):
        pass
    os.waitpid(pid, 0)


def test_a_lock_file_that_is_removed_while_it_is_opened_admits_no_second_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that opened the file before its holder removed it would hold a lock that nobody else sees."""
    path = tmp_path / "lock"
    path.touch()
    flock, calls = locks._flock, []

    def removed_before(file: object, operation: int) -> bool:
        if not calls:
            path.unlink()
        calls.append(1)
        return flock(file, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(locks, "_flock", removed_before)
    with locks.exclusive(path):
        monkeypatch.setattr(locks, "_flock", flock)
        assert len(calls) == 2
        with pytest.raises(locks.Held), locks.exclusive(path):
            pass


@pytest.fixture
def without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on a file system that has no locks."""
    project = tmp_path / "project"
    flock = fcntl.flock

    def refuse(file: IO[str], operation: int) -> None:
        if Path(file.name).resolve().is_relative_to(project):
            raise OSError(errno.ENOLCK, "No locks available")
        flock(file, operation)

    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setattr("fcntl.flock", refuse)
    return project


TAKEN: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "a run's": lambda: states.only_trainer(Path("runs/digits/vit_micro/w2a2/statsq/seed0"), patience=0),
    "the project's": lambda: closing(hold_project()),
}


@pytest.mark.parametrize("lock", TAKEN)
def test_a_file_system_without_locks_is_named_and_locks_may_lie_elsewhere(
    without_locks: Path, lock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pytest.raises(UserError, match=r"cannot be locked \(No locks available\); let OFQ_LOCKS name a dir"),
        TAKEN[lock](),
    ):
        pass
    monkeypatch.setenv("OFQ_LOCKS", str(tmp_path / "locks"))
    with TAKEN[lock]():
        assert len(list((tmp_path / "locks").iterdir())) == 1


def test_locks_elsewhere_are_those_of_their_runs(
    without_locks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFQ_LOCKS", str(tmp_path / "locks"))
    pid = holder_in_child(Path("runs/a/lock"))
    with (
        pytest.raises(UserError, match=f"runs/a is being trained by process {pid} on"),
        states.only_trainer(Path("runs/a"), patience=0),
    ):
        pass
    (tmp_path / "link").symlink_to(without_locks)
    with pytest.raises(locks.Held), locks.exclusive(tmp_path / "link/runs/a/lock"):
        pass
    with states.only_trainer(Path("runs/b"), patience=0):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with states.only_trainer(Path("runs/a"), patience=0):
        pass


def test_snakemakes_own_locks_stay_where_other_machines_cannot_be_seen(
    without_locks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = without_locks / ".snakemake/locks/0.output.lock"
    stale.parent.mkdir(parents=True)
    stale.touch()
    monkeypatch.setenv("OFQ_LOCKS", str(tmp_path / "locks"))
    with hold_project():
        assert stale.exists(), "it may be another machine's"


def test_two_settings_of_one_run_share_its_lock(here: Path) -> None:
    """They would write the same results."""
    run = run_of("lsq")
    assert run.state("a").parent == run.state("b").parent == run.state("")
    noted = json.loads(run.files.info.read_text())
    assert run.state(noted["state"]).parent == run.state("")
