"""The processes that a drill started, and nobody else's.

Everything that a drill starts inherits an environment variable with a value of its own, whoever adopts it later.
A process is known by its number and the moment it began, so that a signal never reaches another process that was given
the same number since.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from ofq.environment import DRILL
from ofq.runs.paths import Run


@dataclass(frozen=True)
class Process:
    """One process of the drill.

    Attributes:
        system: the process.
        since: when it was first seen, on the monotonic clock.
        role: ``warm process``, ``trainer``, ``caller`` (the ``python -m ofq qat ...`` that a trainer works for; without
            a warm process it trains itself), ``job`` (any other ``python -m ofq ...``) or ``other``.
        work: the run or job to whose log it prints; empty of the warm process.
    """

    system: psutil.Process
    since: float
    role: str
    work: Run | str = ""

    def __str__(self) -> str:
        """As people read it: ``trainer w2a2 statsq s0``."""
        return f"{self.role} {self.work.label if isinstance(self.work, Run) else self.work}".strip()

    def send(self, signum: signal.Signals) -> bool:
        """Send a signal; return whether the process was still there."""
        with contextlib.suppress(psutil.NoSuchProcess):
            # psutil does not compare the beginnings of a process that it has seen gone: ask first.
            if self.system.is_running():
                self.system.send_signal(signum)
                return True
        return False


class Processes:
    """All living processes that carry a drill's mark; jobs of Snakemake print to ``logs/`` below ``root``.

    Make one before the first of them is started: whatever runs already is taken for foreign.
    """

    def __init__(self, root: Path, mark: str) -> None:
        self._logs = f"{root}/logs/"
        self._mark = mark
        self._own: dict[psutil.Process, float] = {}  # first seen
        self._foreign = set(psutil.process_iter())

    def scan(self) -> list[Process]:
        """Return those that live now."""
        everything = list(psutil.process_iter())
        self._foreign.intersection_update(everything)
        living = []
        for process in everything:
            if process not in self._foreign:
                with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile, or a zombie
                    if self._is_own(process):
                        living.append(self._describe(process))
        self._own = {process.system: process.since for process in living}
        return living

    def end(self) -> None:
        """Kill all that live, until none is left."""
        while living := self.scan():
            for process in living:
                process.send(signal.SIGKILL)
            time.sleep(0.01)

    def _is_own(self, process: psutil.Process) -> bool:
        """Return whether a process carries the mark, and remember what it was found to be."""
        if process in self._own:
            return True
        try:
            variables = process.environ()
        except psutil.AccessDenied:  # another user's
            self._foreign.add(process)
            return False
        # A job of the warm process shows none once it has a title.
        if variables.get(DRILL) == self._mark or (not variables and process.parent() in self._own):
            self._own[process] = time.monotonic()
            return True
        if variables:  # a process that is just being started shows none for a moment
            self._foreign.add(process)
        return False

    def _describe(self, process: psutil.Process) -> Process:
        words, log = " ".join(process.cmdline()).split(), ""  # a title is one text with zeros behind it
        with contextlib.suppress(OSError):
            log = os.readlink(f"/proc/{process.pid}/fd/1")  # noqa: PTH115 - many times a second
        name = log.removeprefix(self._logs).removesuffix(".log") if log.startswith(self._logs) else ""
        work = Run.parse(name) or name.rpartition("/")[2]
        role = "other"
        # A fork prints to the log of its run, at first under the command line of the warm process.
        if words[1:4] == ["-m", "ofq", "warm"] or words[:1] == ["ofq"]:
            role = "trainer" if work else "warm process"
        elif words[1:3] == ["-m", "ofq"]:
            role = "caller" if isinstance(work, Run) else "job"
        return Process(process, self._own[process], role, work)
