"""Lines of progress: at every interval, and at least every two minutes; nowhere but in the log."""

import pytest

from ofq.runs import progress


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
    assert first.endswith("step  200/1000  loss  1.500  top1  70.00 %  osc  0.50 %  20 images/s  left 6:40")
    assert second.endswith("step  300/1000  8 images/s  left 9:58")
    assert third.endswith("step  400/1000  100 images/s  2.0 GiB of the card  left 6:02")
