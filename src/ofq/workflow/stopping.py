"""What Ctrl-C and the like do to Snakemake: its jobs save and end, and the last line says how to go on."""

import atexit
import contextlib
import os
import queue
import shlex
import signal
import sys
import threading
import time
from collections.abc import Collection
from typing import Any

import psutil  # type: ignore[import-untyped]

from ofq.errors import first_of
from ofq.runs import states
from ofq.runs.paths import Run
from ofq.workflow import internals
from ofq.workflow.warm import SIGNALS

_TOGETHER = 0.3  # seconds in which the same request may come again, as when a whole group is told
_OFTEN = 1.0  # seconds after which jobs that have started since are told
_NAMED = 3  # runs


class Stopping:
    """The end of a Snakemake that is told to stop: whichever process is told, no job goes on.

    Snakemake itself would wait for what its jobs do, which may take days, unless a terminal has told them too.

    Args:
        workflow: Snakemake's.

    Attributes:
        signum: the signal that told it to stop; 0 while none did.
    """

    def __init__(self, workflow: Any) -> None:
        self.signum = 0
        self._workflow = workflow
        self._since = 0.0
        self._working = False
        self._saved = ""
        self._passed_on: queue.SimpleQueue[int] = queue.SimpleQueue()

    def listen(self, *, working: bool) -> None:
        """Answer signals from now on, but those that are ignored, as some are under nohup.

        Args:
            working: whether jobs may be running. Snakemake then has a handler of its own, which this replaces.
        """
        self._working = working
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._stop)
        if working:
            threading.Thread(target=self._tell_jobs, daemon=True).start()

    def note_saved(self, runs: Collection[Run]) -> None:
        """Let the last line name those of these runs that will go on from a saved step."""
        found = sorted((run, state.step) for run, state in states.unfinished().items() if run in runs)
        names = [f"{run} (step {step})" for run, step in found]
        self._saved = f"; saved: {first_of(names, _NAMED)}" if names else ""

    def _stop(self, signum: int, frame: object) -> None:
        """Stop at the first signal; let jobs end at once at a further one."""
        now, name = time.monotonic(), signal.Signals(signum).name
        if self.signum and now - self._since < _TOGETHER:
            return
        self._since = now
        # What a terminal sends reaches jobs as well: they would take another of the same kind for a second request.
        self._passed_on.put(signal.SIGTERM if signum == signal.SIGINT else signum)
        if self.signum:
            _say(f"{name}: ending what still runs at once")
            return
        self.signum = signum
        if self._working and (running := len(self._workflow.scheduler.running)):
            here = f"waiting until what runs ({running}) has saved its state; a second {name} ends it at once"
            elsewhere = f"cancelling what runs elsewhere ({running}); it saves its state in the time that it is given"
            _say(f"{name}: {here if self._workflow.local_exec else elsewhere}")
        internals.end_terminal_output()
        atexit.register(self._say_last)
        raise SystemExit(128 + signum)

    def _say_last(self) -> None:
        command = shlex.join(["snakemake", *sys.argv[1:]])
        _say(f"stopped by {signal.Signals(self.signum).name}{self._saved}; go on with: {command}")

    def _tell_jobs(self) -> None:
        """Pass signals on to each job, also to those that are just starting."""
        signum, told = 0, set[Any]()
        while True:
            with contextlib.suppress(queue.Empty):
                signum, told = self._passed_on.get(timeout=_OFTEN if signum else None), set()
            for process in internals.job_processes():
                if process not in told:
                    told.add(process)
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.send_signal(signum)


def _say(text: str) -> None:
    # Not with print: a handler may come while Snakemake prints.
    with contextlib.suppress(OSError):  # the terminal is gone
        os.write(sys.stderr.fileno(), f"ofq: {text}\n".encode())
