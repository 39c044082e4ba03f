"""How Snakemake passes signals on to its jobs."""

import atexit
import signal
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from ofq.workflow import internals, stopping
from ofq.workflow.stopping import Stopping
from ofq.workflow.warm import SIGNALS


class Job:
    """A process that notes what it is sent."""

    def __init__(self) -> None:
        self.received: list[int] = []

    def send_signal(self, signum: int) -> None:
        self.received.append(signum)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Job]]:
    """The jobs that run; handlers are put back afterwards."""
    running = [Job(), Job()]
    monkeypatch.setattr(internals, "job_processes", lambda: list(running))
    monkeypatch.setattr(atexit, "register", lambda *arguments: None)
    monkeypatch.setattr(stopping, "_OFTEN", 0.05)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield running
    monkeypatch.setattr(internals, "job_processes", sys.exit)  # ends the thread that tells them
    time.sleep(0.3)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("sent", "passed_on"),
    [
        ((signal.SIGINT,), [signal.SIGTERM]),  # a terminal has sent the other one already
        ((signal.SIGTERM, signal.SIGTERM), [signal.SIGTERM] * 2),
        ((signal.SIGUSR1, signal.SIGTERM), [signal.SIGUSR1, signal.SIGTERM]),  # as Slurm does: not twice the same
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_each_request_reaches_each_job_once_also_one_that_is_just_starting(
    jobs: list[Job], sent: tuple[signal.Signals, ...], passed_on: list[signal.Signals]
) -> None:
    told = Stopping(SimpleNamespace(scheduler=SimpleNamespace(running=jobs), local_exec=True))
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    told.listen(working=True)
    with pytest.raises(SystemExit, match=str(128 + sent[0])):
        signal.raise_signal(sent[0])
    signal.raise_signal(sent[0])  # the same request, as to a whole group
    for number in sent[1:]:
        time.sleep(0.4)
        signal.raise_signal(number)  # Snakemake is waiting for its jobs by now
    time.sleep(0.4)
    assert [job.received for job in jobs] == [passed_on] * 2
    jobs.append(Job())
    time.sleep(0.4)
    assert jobs[-1].received == passed_on[-1:]


@pytest.mark.parametrize(
    ("here", "said"),
    [
        (True, "waiting until what runs (2) has saved its state; a second SIGTERM ends it at once"),
        (False, "cancelling what runs elsewhere (2); it saves its state in the time that it is given"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_it_is_said_what_becomes_of_jobs_here_and_of_those_on_a_cluster(
    jobs: list[Job], capfd: pytest.CaptureFixture[str], here: bool, said: str
) -> None:
    told = Stopping(SimpleNamespace(scheduler=SimpleNamespace(running=jobs), local_exec=here))
    told.listen(working=True)
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGTERM)
    assert capfd.readouterr().err == f"ofq: SIGTERM: {said}\n"
