"""What is killed, when and how: drawn once, from a seed."""

import math
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from ofq.runs.paths import Run

# The moments: `start` of snakemake; `job`, after a run's process began; `training`; `checkpoint` and `publishing`,
# while a file is being written into runs/ or results/; `report`, in the jobs that train nothing.
Moment = Literal["start", "job", "training", "checkpoint", "publishing", "report"]
Victim = Literal["trainer", "caller", "warm process", "snakemake", "group"]
_Card = TypeVar("_Card")

# A moment, victim or signal that is listed twice is drawn twice as often.
_MOMENTS: tuple[Moment, ...] = ("training", "checkpoint", "job", "publishing", "report", "checkpoint", "start")
_VICTIMS: tuple[Victim, ...] = ("trainer", "snakemake", "trainer", "caller", "warm process", "group")
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP)
_JOBS = ("tables", "data", "track", "figures")
# Shortest and longest wait, drawn evenly on a logarithmic scale.
_SECONDS: dict[Moment, tuple[float, float]] = {"start": (0.2, 6.0), "job": (0.02, 2.0), "report": (0.05, 1.0)}


@dataclass(frozen=True)
class Kill:
    """One kill: at which moment, what, by which signal.

    Attributes:
        moment: see above.
        victim: what is killed; in a report, `trainer` and `caller` stand for the job.
        signum: the signal.
        target: whose moment it is: a run, a job by the name of its log (of `report`), or the number of a start of
            Snakemake, the later ones included (of `start`).
        at: when it is, in seconds after the target began (of `start`, `job` and `report`), or the share of its steps
            that are saved (`training`, `checkpoint`) or of its files that are published (`publishing`).
    """

    moment: Moment
    victim: Victim
    signum: signal.Signals
    target: Run | str | int
    at: float = 0.0

    def sooner(self) -> "Kill":
        """Return the same kill after half the time or at half the share."""
        return replace(self, at=self.at / 2)


def draw(count: int, seed: int, runs: Sequence[Run]) -> list[Kill]:
    """Draw kills that are spread evenly over moments, runs, victims and signals, in random combinations."""
    rng = random.Random(seed)
    moments, victims = _deck(rng, _MOMENTS, count), _deck(rng, _VICTIMS, count)
    signals, targets, jobs = _deck(rng, _SIGNALS, count), _deck(rng, runs, count), _deck(rng, _JOBS, count)
    kills = []
    for moment, victim, signum, run, job in zip(moments, victims, signals, targets, jobs, strict=True):
        seconds = math.exp(rng.uniform(*map(math.log, _SECONDS.get(moment, (1.0, 1.0)))))
        share, start = rng.uniform(0, 0.9), rng.randrange(1, 2 + count // 4)
        at = seconds if moment in _SECONDS else share
        if moment == "start":  # nothing but Snakemake is there yet
            kills.append(Kill(moment, victim if victim == "group" else "snakemake", signum, start, at))
        else:
            kills.append(Kill(moment, victim, signum, job if moment == "report" else run, at))
    return kills


def _deck(rng: random.Random, cards: Sequence[_Card], count: int) -> list[_Card]:
    """Return that many cards, each about as often as it is listed, shuffled."""
    deck = [cards[index % len(cards)] for index in range(count)]
    rng.shuffle(deck)
    return deck
