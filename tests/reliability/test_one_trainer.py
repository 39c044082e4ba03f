"""One trainer a run: the lock is the process's, and goes with it however it ends."""

import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from ofq.cli import main as cli
from ofq.errors import UserError
from ofq.runs import locks, states
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


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with (
        pytest.raises(UserError, match=r"cannot be locked .*must lie on a file system with locks"),
        locks.exclusive(tmp_path / "lock"),
    ):
        pass


def test_two_settings_of_one_run_share_its_lock(here: Path) -> None:
    """They would write the same results."""
    run = run_of("lsq")
    assert run.state("a").parent == run.state("b").parent == run.state("")
    noted = json.loads(run.files.info.read_text())
    assert run.state(noted["state"]).parent == run.state("")
