"""The disturbed study: start Snakemake, kill, start it again, until every kill is spent and the study is complete."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ofq.runs.paths import Run
from tools.drill.observe import RunFolder
from tools.drill.plan import Kill
from tools.drill.processes import Process, Processes
from tools.drill.study import Copy

GRACE_SECONDS = 30.0  # for the processes of a Snakemake that was killed: they have to notice, save and end
_FAILED_STARTS = 3  # in a row, with nothing killed in them, after which the drill gives up
_MISSED = 5  # times that a study is completed in a row with nothing killed, likewise
_PAUSE_SECONDS = 1.0  # from one kill to the next, at least
_POLL_SECONDS = 0.02
_QUICK_POLL_SECONDS = 0.0005  # while a kill waits for a file that is written in milliseconds


@dataclass
class Strike:
    """A kill that was made: ``seconds`` into the disturbed study, in the ``start``-th start of Snakemake."""

    kill: Kill
    seconds: float
    start: int
    victim: str
    doing: str
    run: Run | None = None
    ended: str = ""  # how Snakemake ended then
    after: str = ""  # how the run went on

    @property
    def what_came_after(self) -> str:
        """Both in words."""
        parts = [f"snakemake {self.ended}" if self.ended else "", self.after]
        return ", ".join(part for part in parts if part)


class GivenUp(Exception):
    """The study does not get on; says what was seen."""


class Course:
    """One disturbed study.

    Args:
        copy: where it is run; its marks are those of ``processes``.
        processes: what it has started.
        kills: to be made.
        seed: of the choice of finished runs that are removed so that remaining kills meet something.
        patience: seconds that one start of Snakemake may take.
        limit: seconds that the whole may take.
        say: told of each kill.
    """

    def __init__(
        self,
        copy: Copy,
        processes: Processes,
        kills: list[Kill],
        *,
        seed: int,
        patience: float,
        limit: float,
        say: Callable[[str], None],
    ) -> None:
        self.strikes: list[Strike] = []
        self.starts = 0
        self.failed_starts: list[str] = []  # ended with an error although nothing was killed
        self.orphans: list[str] = []  # outlived their Snakemake by more than the time that they get for saving
        self.removed: list[Run] = []  # finished runs that were removed and made again
        self._copy = copy
        self._processes = processes
        self._left = list(kills)
        self._rng = random.Random(seed)
        self._patience = patience
        self._limit = limit
        self._say = say
        self._folders = {run: RunFolder(copy.root, run, copy.study.steps(run)) for run in copy.study.runs}
        self._began = time.monotonic()

    def run(self) -> None:
        """Go through it.

        Raises:
            GivenUp: the study does not get on.
        """
        failed = missed = 0
        while True:
            code, made = self._one_start()
            missed = 0 if made else missed + 1
            if missed >= _MISSED and code == 0 and self._left:
                raise GivenUp(f"nothing to kill was met in {missed} starts of snakemake")
            if code == 0:
                for strike in self.strikes:
                    if strike.run is not None and not strike.after:
                        strike.after = "ended all the same"
                if not self._left:
                    return
                self._remove_finished()
            failed = 0 if code == 0 or made else failed + 1
            if failed:
                self.failed_starts.append(self._copy.last_lines())
                self._say(f"snakemake failed although nothing was killed: {self._copy.last_lines()}")
            if failed == _FAILED_STARTS:
                raise GivenUp(f"snakemake failed {failed} times in a row with nothing killed")

    def _one_start(self) -> tuple[int, int]:
        """Start Snakemake once and see it end; its exit code, and the number of kills."""
        self.starts += 1
        before = len(self.strikes)
        started = time.monotonic()
        snakemake = self._copy.start()
        scanned, living = 0.0, self._processes.scan(started)
        while snakemake.poll() is None:
            now = time.monotonic()
            if now - started > self._patience or now - self._began > self._limit:
                raise GivenUp(f"snakemake did not end within {now - started:.0f} s")
            if now - scanned > _POLL_SECONDS:
                scanned, living = now, self._processes.scan(now)
                self._follow(living)
                if now - started > GRACE_SECONDS:
                    self._note_orphans([p for p in living if p.since < started])
            quick = False
            resting = bool(self.strikes) and now - self._began < self.strikes[-1].seconds + _PAUSE_SECONDS
            for kill in [] if resting else list(self._left):
                due, soon = self._due(kill, living, now, now - started)
                quick |= soon
                if due and self._strike(kill, snakemake, living, now):
                    self._left.remove(kill)
                    break
            time.sleep(_QUICK_POLL_SECONDS if quick else _POLL_SECONDS)
        self._follow(self._processes.scan(time.monotonic()))
        code = snakemake.returncode
        for strike in self.strikes[before:]:
            ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            strike.ended = ended if code else "went on"
        return code, len(self.strikes) - before

    def _due(self, kill: Kill, living: list[Process], now: float, up: float) -> tuple[bool, bool]:
        """Whether the kill's moment is there, and whether it may come within milliseconds."""
        if kill.moment == "start":
            return self.starts >= kill.start and up >= kill.seconds, False
        if kill.moment == "report":
            return any(p.step == kill.step and now - p.since >= kill.seconds for p in living), False
        working = [p.since for p in living if p.run is not None and p.run == kill.run]
        if kill.run is None or not working:
            return False, False
        if kill.moment == "job":
            return now - min(working) >= kill.seconds, False
        folder = self._folders[kill.run]
        saved = folder.saved_share
        if kill.moment == "training":
            return 0 < saved >= kill.share, False
        if kill.moment == "checkpoint":
            return saved >= kill.share and folder.writes_state, saved >= kill.share
        return folder.writes_results and folder.published_share >= kill.share, saved == 1

    def _strike(self, kill: Kill, snakemake: "subprocess.Popen[bytes]", living: list[Process], now: float) -> bool:
        """Kill; False where the victim is not there."""
        run, doing = kill.run, self._doing(kill, living)
        if kill.victim in ("snakemake", "group"):
            victim = "snakemake" if kill.victim == "snakemake" else "snakemake and its group"
            if snakemake.poll() is not None:
                return False
            if kill.victim == "snakemake":
                snakemake.send_signal(kill.signum)
            else:  # the group of a session that this drill began; it keeps its number while its leader is not reaped
                os.killpg(snakemake.pid, kill.signum)
        else:
            process = victim_of(kill, living)
            if process is None or not process.send(kill.signum):
                return False
            run = run or process.run
            names = {"step": f"job {process.step}", "warm process": process.role}
            victim = names.get(process.role) or f"{process.role} {run.label if run else ''}".strip()
            doing = doing.removeprefix(f"{run.label}: ") if run and run.label in victim else doing
        strike = Strike(kill, now - self._began, self.starts, victim, doing, run)
        self.strikes.append(strike)
        self._say(f"{len(self.strikes):>3}  {strike.seconds:6.1f} s  {kill.signum.name} to {victim}: {doing}")
        return True

    def _doing(self, kill: Kill, living: list[Process]) -> str:
        if kill.run is not None:
            return f"{kill.run.label}: {self._folders[kill.run].doing()}"
        if steps := sorted({p.step for p in living if p.role == "step"}):
            return f"running {' and '.join(steps)}"
        runs = sorted({p.run for p in living if p.run is not None})
        return ", ".join(f"{run.label}: {self._folders[run].doing()}" for run in runs) or "starting"

    def _follow(self, living: list[Process]) -> None:
        """Note how the runs that were hit went on, from the logs of the processes that came after."""
        for strike in self.strikes:
            if strike.after or strike.run is None:
                continue
            hit = self._began + strike.seconds
            if any(p.run == strike.run and p.since > hit for p in living):
                strike.after = self._folders[strike.run].went_on() or ""

    def _note_orphans(self, orphans: list[Process]) -> None:
        for process in orphans:
            name = f"process {process.pid} ({process.role} {process.run.label if process.run else process.step})"
            if not any(name in noted for noted in self.orphans):
                self.orphans.append(f"{name} outlived its snakemake by {GRACE_SECONDS:.0f} s")
                self._say(self.orphans[-1])

    def _remove_finished(self) -> None:
        """Remove the results of runs that kills are still meant for, as a user would who wants them made again."""
        runs = [kill.run for kill in self._left if kill.run is not None]
        run = runs[0] if runs else self._rng.choice(self._copy.study.runs[1:])
        for path in self._copy.study.resolved.published(run):
            (self._copy.root / path).unlink()
        if any(kill.step == "data" for kill in self._left):
            (self._copy.results / "data" / "manifest.json").unlink()
        self.removed.append(run)
        # A run may be over before the moment that was drawn: let it come earlier.
        self._left = [kill.sooner() for kill in self._left]
        self._say(f"the study is complete, {len(self._left)} kills are left: removed the results of {run.label}")


def victim_of(kill: Kill, living: Sequence[Process]) -> Process | None:
    """The process that a kill is meant for, other than Snakemake; None where it is not there."""
    if kill.victim == "warm process":
        return next((p for p in living if p.role == "warm process"), None)
    if kill.moment == "report":
        return next((p for p in living if p.step == kill.step), None)
    working = [p for p in living if p.run == kill.run and p.role in ("trainer", "caller")]
    # Without a warm process the caller trains; with one, a trainer may not be forked yet.
    return next((p for p in working if p.role == kill.victim), working[0] if working else None)
