"""What a run says and does when it is told to stop while something long goes on, and when it is told again."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ofq.errors import Stopped
from ofq.runs import checkpoint, states
from ofq.training import loop
from tests.reliability.conftest import run_of, train

RUN = run_of("statsq")
SAVED = 4  # steps, before the long one


@pytest.fixture
def nothing_saved(here: Path) -> None:
    for state in states.of_run(RUN.state("")):
        states.drop(state.directory)


def one_long_operation() -> None:
    """As a backward pass: it takes seconds, and no handler of Python runs meanwhile."""
    matrix = torch.ones(6000, 6000)
    matrix @ matrix


def long_step(begin: Callable[[], None]) -> None:
    make = loop.make_schedule

    def make_schedule(*arguments: object) -> object:
        schedule = make(*arguments)  # type: ignore[arg-type]
        update = schedule.step_update

        def step_update(number: int) -> None:
            if number == SAVED:
                begin()
                one_long_operation()
            update(number)

        schedule.step_update = step_update  # type: ignore[method-assign]
        return schedule

    loop.make_schedule = make_schedule  # type: ignore[assignment]


def long_evaluation(begin: Callable[[], None]) -> None:
    evaluate = loop.evaluate

    def slow(*arguments: object) -> tuple[float, float]:
        if list((RUN.state("")).glob(f"*/checkpoint-{SAVED:09d}.pt")):
            begin()
            one_long_operation()
        return evaluate(*arguments)  # type: ignore[arg-type]

    loop.evaluate = slow  # type: ignore[assignment]


def long_save(begin: Callable[[], None]) -> None:
    write_bytes = checkpoint.write_bytes

    def slow(path: Path, content: bytes) -> None:
        if path.name == f"checkpoint-{SAVED + 1:09d}.pt":
            begin()
            one_long_operation()
        write_bytes(path, content)

    checkpoint.write_bytes = slow  # type: ignore[assignment]


LONG = {
    f"waiting for step {SAVED + 1} of 12, which is then saved": long_step,
    f"waiting for the evaluation after step {SAVED + 1}, which is then saved": long_evaluation,
    f"waiting for step {SAVED + 1} to be saved": long_save,
}


def in_background(work: Callable[[Callable[[], None]], None], folder: Path) -> int:
    """Train in a forked process that makes a file when the long part begins; its output is in ``err``."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        sys.stderr = (folder / "err").open("w", buffering=1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        checkpoint.Checkpoints.due = lambda self: True  # type: ignore[method-assign]
        work((folder / "begun").touch)
        train(RUN)
        code = 0
    except Stopped as error:
        code = 128 + error.signum
    finally:
        os._exit(code)


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.01)


@pytest.mark.parametrize("waiting", LONG)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda signum: signum.name)
def test_the_second_signal_ends_what_the_first_one_waits_for(
    nothing_saved: None, waiting: str, signum: signal.Signals, tmp_path: Path
) -> None:
    undisturbed = {path: path.read_bytes() for path in RUN.files.published}
    pid = in_background(LONG[waiting], tmp_path)
    wait_for((tmp_path / "begun").exists)
    for _ in range(3):  # from the terminal, from a caller, to a group
        os.kill(pid, signum)
    told = f"ofq: {signum.name}: {waiting}; a second {signum.name} ends at once, to go on later from step {SAVED}\n"
    wait_for(lambda: told in (tmp_path / "err").read_text())
    assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the same signal from several sides is one request"
    os.kill(pid, signum)
    sent = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signum
    assert time.monotonic() - sent < 2, "at once"
    last = (tmp_path / "err").read_text().splitlines()[-1]
    assert last == f"ofq: ended at once by a second {signum.name}; the same command goes on from step {SAVED}"
    (state,) = states.of_run(RUN.state(""))
    assert state.step == SAVED
    assert {path: path.read_bytes() for path in RUN.files.published} == undisturbed
    train(RUN)
    assert not [*Path().rglob(".tmp-*")]
