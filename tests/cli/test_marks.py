"""The mark that a training leaves when it fails, and when it leaves none."""

import os
import signal
from pathlib import Path

import pytest

from ofq.cli.marks import failure_noted
from ofq.cli.run import REPLY, Ended
from ofq.errors import Stopped, UserError
from ofq.runs import standing
from ofq.runs.locks import Held
from ofq.runs.paths import Run
from ofq.runs.standing import FAILED, Failure, failure, note

RUN = Run("digits", "vit_micro", "w2a2", "statsq", 0)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(REPLY, raising=False)
    note(RUN.state(""), Failure("of an earlier start", None))
    return tmp_path


def test_a_start_removes_the_mark_of_an_earlier_one() -> None:
    with failure_noted(RUN):
        assert failure(RUN.state("")) is None
    assert failure(RUN.state("")) is None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("the loss is nan;\nlower lr"), "the loss is nan; lower lr"),
        (MemoryError(), "out of memory; run fewer jobs at once (snakemake --cores 1), or lower batch_size in params"),
        (OSError(28, "No space left on device", "a"), "cannot read or write a: No space left on device; free some"),
        (ValueError("no calm\nand more"), "ValueError: no calm"),
        (KeyError(), "KeyError: "),
        (Ended(2, "of one of several processes"), "of one of several processes"),
    ],
)
def test_a_failure_is_marked_in_one_line(error: BaseException, said: str) -> None:
    with pytest.raises(type(error)), failure_noted(RUN):
        raise error
    assert failure(RUN.state("")).error.startswith(said)


@pytest.mark.parametrize(
    "error",
    [Stopped(signal.SIGTERM, 3), KeyboardInterrupt(), Held("another trains it"), SystemExit(143), Ended(137, "killed")],
)
def test_what_was_stopped_or_is_trained_by_another_did_not_fail(error: BaseException) -> None:
    with pytest.raises(type(error)), failure_noted(RUN):
        raise error
    assert not (RUN.state("") / FAILED).exists()


def test_one_of_several_processes_leaves_it_to_the_one_that_started_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REPLY, "reply.json")
    with pytest.raises(UserError), failure_noted(RUN):
        raise UserError("the loss is nan")
    assert failure(RUN.state("")) is None


def test_the_mark_names_the_file_that_all_was_printed_to(here: Path) -> None:
    (here / "logs").mkdir()
    kept = os.dup(2)
    try:
        for path, named in ((here / "logs/a.log", "logs/a.log"), (Path("/dev/null"), None)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), 2)
            with pytest.raises(ZeroDivisionError), failure_noted(RUN):
                raise ZeroDivisionError
            assert failure(RUN.state("")).log == named
    finally:
        os.dup2(kept, 2)


def test_a_mark_that_cannot_be_read_is_none() -> None:
    (RUN.state("") / FAILED).write_text("[]")
    assert standing.failure(RUN.state("")) is None
