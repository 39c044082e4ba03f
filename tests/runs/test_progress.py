"""Progress: a line at every interval and at least every two minutes, and a file beside the states of the run."""

import errno
import time
from pathlib import Path

import pytest

from ofq.runs import progress
from ofq.runs.standing import PROGRESS, Failure, note, standing


def test_a_line_says_how_far_how_fast_and_how_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with caplog.at_level("INFO", logger="ofq"):
        line = progress.Progress("run", steps=1000, images=10, first=100)
        now[0] += 50
        line.tell(200, 0, {"train/loss": 1.5, "val/top1": 70.0, "osc/share": 0.5})
        assert not line.due()
        now[0] += 121
        assert line.due()
        line.tell(300, 0)
        assert not line.due()
        now[0] += 10
        line.tell(400, 2048)
    first, second, third = caplog.messages
    assert first.endswith("step  200/1000  loss  1.500  top1  70.00 %  osc  0.50 %  20 images/s  left 0:06:40")
    assert second.endswith("step  300/1000  8 images/s  left 0:09:58")
    assert third.endswith("step  400/1000  100 images/s  2.0 GiB of the card  left 0:06:02")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a run that failed before is trained."""
    note(tmp_path, Failure("too high a rate", "logs/a.log"))
    return tmp_path


def test_how_far_a_run_is_stands_in_a_file_beside_its_states_until_it_ends_well(directory: Path) -> None:
    with progress.kept(directory):
        line = progress.Progress("run", steps=10, images=4, first=2)
        assert (standing(directory).step, standing(directory).steps, standing(directory).loss) == (2, 10, None)
        line.tell(4, 0, {"train/loss": 1.5, "val/top1": 70.0, "osc/share": 0.5})
        line.due()
        told = standing(directory)
        assert (told.step, told.loss, told.top1, told.osc) == (4, 1.5, 70.0, 0.5), "between evaluations it may be older"
        assert told.rate > 0 and told.left > 0 and abs(told.at - time.time()) < 60
    assert [path.name for path in directory.iterdir()] == [], "nor a failure of before"


@pytest.mark.parametrize("fresh", [0.0, 100.0])
def test_steps_between_evaluations_are_shown_after_some_seconds_and_where_a_run_is_stopped(
    directory: Path, monkeypatch: pytest.MonkeyPatch, fresh: float
) -> None:
    monkeypatch.setattr(progress, "_FRESH", fresh)
    with pytest.raises(ZeroDivisionError), progress.kept(directory):
        line = progress.Progress("run", steps=10, images=4, first=2)
        line.due()
        line.due()
        assert (standing(directory).step, standing(directory).left is None) == ((2, True) if fresh else (4, False))
        raise ZeroDivisionError
    assert standing(directory).step == 4, "a run that is stopped leaves its file"
    (directory / PROGRESS).write_text('{"step": ')
    assert standing(directory) is None, "damaged"
    (directory / PROGRESS).write_text('{"pace": 1}')
    assert standing(directory) is None, "of another version"


def test_no_run_is_silent_for_long_whatever_it_does(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "SILENCE", 0.1)
    with caplog.at_level("INFO", logger="ofq"), progress.kept(directory):
        time.sleep(0.15)
        line = progress.Progress("run", steps=10, images=4, first=0)
        time.sleep(0.15)
        line.tell(10, 0)
        time.sleep(0.15)
    said = [message.split("  ")[-1].strip() for message in caplog.messages]
    for words in (
        "it is being prepared",
        "step  0/10 is done, what follows it takes long",
        "all steps are done, it is being measured",
    ):
        assert any(line.endswith(words.split("  ")[-1]) for line in said), (words, caplog.messages)


def test_a_full_disk_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with progress.kept(tmp_path):
        progress.Progress("run", steps=10, images=4, first=0).tell(1, 0)
    assert list(tmp_path.iterdir()) == []
