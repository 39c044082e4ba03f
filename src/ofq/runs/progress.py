"""The lines that say how far a run is."""

import logging
import time
from collections.abc import Mapping

_log = logging.getLogger(__name__)

SILENCE = 120.0  # seconds after which a run says where it is, also between two evaluations


class Progress:
    """Progress of a run, in lines of its log: they depend on time, and stand nowhere else.

    Args:
        label: names the run.
        steps: how many there are.
        images: in a step.
        first: the step that this process goes on from.
    """

    def __init__(self, label: str, *, steps: int, images: int, first: int) -> None:
        self._label, self._steps, self._images, self._first = label, steps, images, first
        self._started = self._told = time.monotonic()
        self._step = first

    def due(self) -> bool:
        """Return whether the run has been silent for too long."""
        return time.monotonic() - self._told > SILENCE

    def tell(self, step: int, memory_mib: int, values: Mapping[str, float] | None = None) -> None:
        """Log a line: images a second since the last one, evaluations included, and the time that is left.

        Args:
            step: the last one that is done.
            memory_mib: of a card, the most that was taken so far; 0 without one.
            values: what was measured after it, if anything was.
        """
        now, steps = time.monotonic(), self._steps
        measured = ""
        if values is not None:
            measured = f"  loss {values['train/loss']:6.3f}  top1 {values['val/top1']:6.2f} %"
            measured += f"  osc {values['osc/share']:5.2f} %" if "osc/share" in values else ""
        rate = (step - self._step) * self._images / max(now - self._told, 1e-9)
        left = round((now - self._started) / (step - self._first) * (steps - step))
        memory = f"  {memory_mib / 1024:.1f} GiB of the card" if memory_mib else ""
        _log.info(
            f"{self._label:<28}  step {step:>{len(str(steps))}}/{steps}{measured}  {rate:.0f} images/s{memory}"
            f"  left {left // 60}:{left % 60:02d}"
        )
        self._told, self._step = now, step
