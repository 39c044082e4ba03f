"""Ctrl-C and the other signals that stop a run: the first waits until the step is saved, a second ends at once."""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
# One request may arrive several times: from the terminal, from a caller that passes it on, to a whole process group.
_TOGETHER = 0.3  # seconds


class Stop:
    """What a run is at that may be told to stop.

    Args:
        saved: the step that it would go on from.
        tells: whether it says what a signal waits for.

    Attributes:
        signum: the first signal that told it to stop; 0 while none did.
        doing: what it would wait for, in words.
        saved: the step that it would go on from by now.
    """

    def __init__(self, saved: int, *, tells: bool = True) -> None:
        self.signum = 0
        self.doing = ""
        self.saved = saved
        self._tells = tells
        self._over = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear the signals that are not ignored, as some are under nohup."""
        heard = {number for number in _STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        handlers = {number: signal.signal(number, self._note) for number in heard}
        descriptor = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._answer, args=(reader, heard), daemon=True).start()
        try:
            yield
        finally:
            self._over = True
            if self.signum:
                time.sleep(_TOGETHER)  # what else belongs to the same request would interrupt what tells of it
            signal.set_wakeup_fd(descriptor)
            os.close(writer)
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _note(self, signum: int, frame: object) -> None:
        self.signum = self.signum or signum

    def _answer(self, reader: int, heard: set[signal.Signals]) -> None:
        """Say what the first signal waits for, and end this process at the second of its kind.

        In a thread, because handlers run only between two operations, and one of a large model takes seconds.
        """
        told: set[signal.Signals] = set()
        while select.select([reader], [], []):
            time.sleep(_TOGETHER)
            received = os.read(reader, 4096)
            if self._over or not received:
                break
            numbers = {number for number in heard if number in received}
            since = f"from step {self.saved}" if self.saved else "from the first step"
            for number in told.intersection(numbers):
                self._say(f"ended at once by a second {number.name}; the same command goes on {since}")
                os._exit(128 + number)
            if numbers and not told:
                name = min(numbers).name
                self._say(f"{name}: waiting for {self.doing}; a second {name} ends at once, to go on later {since}")
            told |= numbers
        os.close(reader)

    def _say(self, text: str) -> None:
        if self._tells:
            print(f"ofq: {text}", file=sys.stderr, flush=True)
