"""The disturbed study: start Snakemake, kill, start it again, until every kill is spent and the study is complete."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ofq.runs.paths import Run
from tools.drill.plan import Kill
from tools.drill.processes import Process, Processes
from tools.drill.study import Copy

_LOGGER = logging.getLogger("ofq.drill")
_GRACE_SECONDS = 30.0  # for the processes of a Snakemake that was killed: they have to notice, save and end
_MISSED = 5  # times that a study is completed in a row with nothing killed, after which the drill gives up
_PAUSE_SECONDS = 1.0  # from one kill to the next, at least
_SCAN_SECONDS = 0.02  # from one look at all processes to the next
_POLL_SECONDS = 0.001  # from one look at a run's files to the next: some are written in milliseconds


@dataclass
class Strike:
    """A kill that was made: ``seconds`` into the disturbed study, when ``victim`` was ``doing`` something.

    ``ended`` says how Snakemake ended then, and ``went_on`` how the run went on; both are empty until it is known.
    """

    kill: Kill
    seconds: float
    victim: str
    doing: str
    ended: str = ""
    went_on: str = ""

    @property
    def what_came_after(self) -> str:
        """Both in words."""
        return ", ".join(filter(None, (f"snakemake {self.ended}" if self.ended else "", self.went_on)))


class GivenUp(Exception):
    """The study does not get on; says what was seen."""


class Course:
    """One disturbed study.

    Args:
        copy: where it is run.
        processes: what is started in the copy.
        kills: to be made.
        patience: seconds that one start of Snakemake may take.
    """

    def __init__(self, copy: Copy, processes: Processes, kills: Sequence[Kill], patience: float) -> None:
        self.strikes: list[Strike] = []
        self.starts = 0
        self.orphans: dict[int, str] = {}  # process id: that it outlived its Snakemake for too long
        self.removed: list[Run] = []  # finished runs that were removed and made again
        self._copy = copy
        self._processes = processes
        self._left = list(kills)
        self._patience = patience
        self._began = time.monotonic()
        self._ends: list[float] = []  # when each Snakemake ended

    def run(self) -> None:
        """Kill until no kill is left and the study is complete, and wait for what still runs then.

        Raises:
            GivenUp: Snakemake fails although nothing was killed, does not end, or meets nothing to kill.
        """
        missed = 0
        while True:
            code, struck = self._start_once()
            if code and not struck:
                raise GivenUp("plain snakemake failed with nothing killed")
            missed = 0 if struck else missed + 1
            if code == 0 and not self._left:
                break
            if missed == _MISSED:
                raise GivenUp(f"nothing to kill was met in {missed} starts of snakemake")
            if code == 0:
                self._remove_finished()
        while (living := self._processes.scan()) and time.monotonic() < self._ends[-1] + _GRACE_SECONDS + 1:
            time.sleep(0.1)
        self._note_orphans(living)

    def _start_once(self) -> tuple[int, int]:
        """Start Snakemake and kill until it ends; return its exit code and the number of kills."""
        self.starts += 1
        earlier, started = len(self.strikes), time.monotonic()
        logged = {run: folder.log_size for run, folder in self._copy.folders.items()}
        snakemake = self._copy.start()
        living, scanned = self._processes.scan(), started
        while snakemake.poll() is None:
            now = time.monotonic()
            if now - started > self._patience:
                raise GivenUp(f"snakemake did not end within {self._patience:.0f} s")
            if now - scanned > _SCAN_SECONDS:
                living, scanned = self._processes.scan(), now
                self._note_orphans(living)
            if not self.strikes or now > self._began + self.strikes[-1].seconds + _PAUSE_SECONDS:
                for kill in self._left:
                    if self._is_due(kill, living, now - started) and self._strike(kill, snakemake, living):
                        self._left.remove(kill)
                        break
            time.sleep(_POLL_SECONDS)
        self._processes.scan()  # what was started last belongs to this Snakemake, not to the next
        self._ends.append(time.monotonic())
        self._note_what_came_after(snakemake.returncode, logged)
        return snakemake.returncode, len(self.strikes) - earlier

    def _is_due(self, kill: Kill, living: Sequence[Process], up: float) -> bool:
        """Return whether a kill's moment is there, ``up`` seconds after Snakemake was started."""
        if isinstance(kill.target, int):
            return self.starts >= kill.target and up >= kill.at
        began = min((process.since for process in living if process.work == kill.target), default=None)
        if began is None:
            return False
        if isinstance(kill.target, str) or kill.moment == "job":
            return time.monotonic() - began >= kill.at
        return self._copy.folders[kill.target].has_reached(kill.moment, kill.at)

    def _strike(self, kill: Kill, snakemake: "subprocess.Popen[bytes]", living: Sequence[Process]) -> bool:
        """Kill; return False where the victim is not there."""
        doing = self._what_is_done(kill, living)
        if snakemake.poll() is not None:
            return False
        if kill.victim == "snakemake":
            victim = "snakemake"
            snakemake.send_signal(kill.signum)
        elif kill.victim == "group":
            victim = "snakemake and its group"
            # The group of a session that this drill began keeps its number while its leader is not reaped.
            os.killpg(snakemake.pid, kill.signum)
        else:
            process = victim_of(kill, living)
            if process is None or not process.send(kill.signum):
                return False
            victim = str(process)
            if isinstance(process.work, Run):
                doing = doing.removeprefix(f"{process.work.label}: ")
        strike = Strike(kill, time.monotonic() - self._began, victim, doing)
        self.strikes.append(strike)
        number = len(self.strikes)
        _LOGGER.info(f"{number:>3}  {strike.seconds:6.1f} s  {kill.signum.name} to {victim}: {doing}")
        return True

    def _what_is_done(self, kill: Kill, living: Sequence[Process]) -> str:
        """Say what the target of a kill is doing; of a job or of Snakemake, what all processes are doing."""
        jobs = sorted({process.work for process in living if isinstance(process.work, str) and process.work})
        if jobs and not isinstance(kill.target, Run):
            return f"running {' and '.join(jobs)}"
        trained = {process.work for process in living if isinstance(process.work, Run)}
        runs = [kill.target] if isinstance(kill.target, Run) else sorted(trained)
        return ", ".join(f"{run.label}: {self._copy.folders[run].doing()}" for run in runs) or "starting"

    def _note_what_came_after(self, code: int, logged: Mapping[Run, int]) -> None:
        """Note how the latest Snakemake ended for its own kills, and how runs hit earlier went on in it.

        Args:
            code: its exit code.
            logged: bytes in the log of each run when it was started.
        """
        ended = f"ended with {code}" if code else "went on"
        if code < 0:
            ended = f"ended by {signal.Signals(-code).name}"
        for strike in self.strikes:
            target = strike.kill.target
            if not strike.ended:
                strike.ended = ended
            elif isinstance(target, Run) and not strike.went_on:
                strike.went_on = self._copy.folders[target].went_on(logged[target])
            if code == 0 and isinstance(target, Run) and not strike.went_on:
                strike.went_on = "ended all the same"

    def _note_orphans(self, living: Sequence[Process]) -> None:
        """Note the processes whose Snakemake ended too long ago."""
        for process in living:
            ended = next((end for end in self._ends if end > process.since), None)
            late = ended is not None and time.monotonic() - ended > _GRACE_SECONDS
            if late and process.system.pid not in self.orphans:
                problem = f"{process} (process {process.system.pid}) outlived its snakemake by {_GRACE_SECONDS:.0f} s"
                self.orphans[process.system.pid] = problem
                _LOGGER.info(problem)

    def _remove_finished(self) -> None:
        """Remove the results of a run that a kill is still meant for, or of the last one, so that kills meet something.

        A run may be over before the moment that was drawn, so the kills that are left come earlier.
        """
        runs = [kill.target for kill in self._left if isinstance(kill.target, Run)]
        run = (runs or list(self._copy.folders)[-1:])[0]
        self._copy.remove(run, data=any(kill.target == "data" for kill in self._left))
        self.removed.append(run)
        self._left = [kill.sooner() for kill in self._left]
        _LOGGER.info(f"the study is complete, {len(self._left)} kills are left: removed the results of {run.label}")


def victim_of(kill: Kill, living: Sequence[Process]) -> Process | None:
    """Return the process that a kill is meant for, other than Snakemake; None where it is not there."""
    if kill.victim == "warm process":
        return next((process for process in living if process.role == "warm process"), None)
    working = [process for process in living if process.work == kill.target and process.role != "other"]
    # Without a warm process the caller trains; with one, a trainer may not be forked yet. A job has one process.
    return next((process for process in working if process.role == kill.victim), working[0] if working else None)
