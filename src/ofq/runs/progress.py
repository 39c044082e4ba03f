"""How far a run is: lines of its log, and a small file beside its states."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

from ofq.runs.paths import STATE
from ofq.runs.standing import Standing, forget, note

_log = logging.getLogger(__name__)

SILENCE = 120.0
"""Seconds after which a run says where it is, also between two evaluations and during a long one."""
_SOONER = 10.0  # a line after a step, which says more, is due so much earlier than one during it
_FRESH = 5.0  # seconds from one state of the file to the next, between two evaluations


class Progress:
    """Progress of a run, in lines of its log and in a file: they depend on time, and nothing depends on them.

    Args:
        label: names the run.
        steps: how many there are.
        images: in a step.
        first: the step that this process goes on from.
    """

    def __init__(self, label: str, *, steps: int, images: int, first: int) -> None:
        self._label, self._steps, self._images, self._first = label, steps, images, first
        self._started = self._told = time.monotonic()
        self._step = self._done = first
        self._keeper = _keeper.get()
        if self._keeper:
            self._keeper.label, self._keeper.step = label, first
            self._keeper.show(steps=steps)

    def due(self) -> bool:
        """Return whether the run has been silent for too long; asked after each step of which nothing is told."""
        self._done += 1
        if self._keeper:
            self._keeper.step = self._done
            if self._keeper.stale:
                rate = (self._done - self._first) * self._images / max(time.monotonic() - self._started, 1e-9)
                self._keeper.show(rate=rate, left=self._left(self._done))
        return time.monotonic() - self._told > SILENCE - _SOONER

    def tell(self, step: int, memory_mib: int, values: Mapping[str, float] | None = None) -> None:
        """Log a line: images a second since the last one, evaluations included, and the time that is left.

        Args:
            step: the last one that is done.
            memory_mib: of a card, the most that was taken so far; 0 without one.
            values: what was measured after it, if anything was.
        """
        now, steps = time.monotonic(), self._steps
        measured, shown = "", dict[str, float | None]()
        if values is not None:
            shown = {"loss": values["train/loss"], "top1": values["val/top1"], "osc": values.get("osc/share")}
            measured = f"  loss {values['train/loss']:6.3f}  top1 {values['val/top1']:6.2f} %"
            measured += f"  osc {values['osc/share']:5.2f} %" if "osc/share" in values else ""
        rate = (step - self._step) * self._images / max(now - self._told, 1e-9)
        memory = f"  {memory_mib / 1024:.1f} GiB of the card" if memory_mib else ""
        _log.info(
            f"{self._label:<28}  step {step:>{len(str(steps))}}/{steps}{measured}  {rate:.0f} images/s{memory}"
            f"  left {clock(self._left(step))}"
        )
        self._told, self._step, self._done = now, step, step
        if self._keeper:
            self._keeper.told, self._keeper.step = now, step
            self._keeper.show(rate=rate, left=self._left(step), **shown)

    def _left(self, step: int) -> float:
        return (time.monotonic() - self._started) / (step - self._first) * (self._steps - step)


class _Keeper:
    """Keeps the file of a run, and logs a line when the run has been silent for too long."""

    def __init__(self, directory: Path) -> None:
        self.label = str(directory.relative_to(STATE)) if directory.is_relative_to(STATE) else directory.name
        self.told = time.monotonic()
        self.step = 0
        self._directory = directory
        self._shown = Standing(0, 0, 0.0)
        self._since = 0.0
        self._ended = threading.Event()

    @property
    def trains(self) -> bool:
        """Whether the run has come to its steps."""
        return self._shown.steps > 0

    @property
    def stale(self) -> bool:
        """Whether the file is so old that the next step is to be shown."""
        return time.monotonic() - self._since > _FRESH

    def show(self, **changed: float | None) -> None:
        """Write the file, with what has changed since it was written last."""
        self._shown = replace(self._shown, step=self.step, at=time.time(), **changed)  # type: ignore[arg-type]
        self._since = time.monotonic()
        note(self._directory, self._shown)

    def speak(self) -> None:
        """Log a line whenever there was none for too long, until the end."""
        while not self._ended.wait(max(0.0, self.told + SILENCE - time.monotonic())):
            if (now := time.monotonic()) - self.told >= SILENCE:
                step, steps = self.step, self._shown.steps
                doing = (
                    f"step {step:>{len(str(steps))}}/{steps} is done, what follows it takes long"
                    if step < steps
                    else "all steps are done, it is being measured"
                    if steps
                    else "it is being prepared"
                )
                _log.info(f"{self.label:<28}  {doing}")
                self.told = now
                self.show()

    def end(self) -> None:
        """Say nothing more."""
        self._ended.set()


_keeper: ContextVar[_Keeper | None] = ContextVar("keeper", default=None)


@contextlib.contextmanager
def kept(directory: Path) -> Iterator[None]:
    """Keep a file in a run's directory that says how far it is, and let its log never be silent for long.

    The file goes if the body ends well; otherwise it stays and says where the run was stopped.
    """
    keeper = _Keeper(directory)
    token = _keeper.set(keeper)
    speaker = threading.Thread(target=keeper.speak, daemon=True)
    speaker.start()
    try:
        yield
    except BaseException:
        if keeper.trains:
            keeper.show()
        raise
    finally:
        _keeper.reset(token)
        keeper.end()
        speaker.join()
    forget(directory)


def clock(seconds: float) -> str:
    """Return a time as hours, minutes and seconds: ``0:06:40``."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
