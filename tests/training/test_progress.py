"""Lines of progress: at every interval, and at least every two minutes; nowhere but in the log."""

import pytest

from ofq.config.settings import TrainingRecipe
from ofq.training import progress
from ofq.training.device import CPU, Device

RECIPE = TrainingRecipe(lr=1.0, min_lr=0.1, batch_size=10, steps=1000)


def test_a_line_says_how_far_how_fast_and_how_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with caplog.at_level("INFO", logger="ofq"):
        line = progress.Progress("run", RECIPE, CPU, first=100)
        now[0] += 50
        line.tell(200, {"train/loss": 1.5, "val/top1": 70.0, "osc/share": 0.5})
        assert not line.due()
        now[0] += 121
        assert line.due()
        line.tell(300)
        assert not line.due()
        monkeypatch.setattr(Device, "memory_mib", 2048)
        now[0] += 10
        line.tell(400)
    first, second, third = caplog.messages
    assert first.endswith("step  200/1000  loss  1.500  top1  70.00 %  osc  0.50 %  20 images/s  left 6:40")
    assert second.endswith("step  300/1000  8 images/s  left 9:58")
    assert third.endswith("step  400/1000  100 images/s  2.0 GiB of the card  left 6:02")
