"""What is killed, when and how: drawn once, from a seed."""

import math
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from ofq.runs.paths import Run

Moment = Literal["start", "job", "training", "checkpoint", "publishing", "report"]
_Card = TypeVar("_Card")
Victim = Literal["trainer", "caller", "warm process", "snakemake", "group"]

# The moments: `start` of snakemake; `job`, after a run's process began; `training`; `checkpoint` and `publishing`,
# while a file is being written into runs/ or results/; `report`, in the jobs that train nothing.
_MOMENTS: tuple[Moment, ...] = ("training", "checkpoint", "job", "publishing", "report", "checkpoint", "start")
_VICTIMS: tuple[Victim, ...] = ("trainer", "snakemake", "trainer", "caller", "warm process", "group")
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP)
_STEPS = ("tables", "data", "track", "figures")
# shortest and longest, drawn evenly on a logarithmic scale
_SECONDS: dict[Moment, tuple[float, float]] = {"start": (0.2, 6.0), "job": (0.02, 2.0), "report": (0.05, 1.0)}


@dataclass(frozen=True)
class Kill:
    """One kill: at which moment, what, by which signal.

    Attributes:
        moment: see above.
        victim: what is killed; at a report, `trainer` and `caller` stand for the job.
        signum: the signal.
        run: the run that is meant, of moments in one.
        step: the job that is meant, of `report`.
        start: the start of Snakemake from which on it may happen, of `start`.
        seconds: after Snakemake or the process began; of `start`, `job` and `report`.
        share: of the steps that are saved, of `training` and `checkpoint`; of the files that are published, of
            `publishing`.
    """

    moment: Moment
    victim: Victim
    signum: signal.Signals
    run: Run | None = None
    step: str = ""
    start: int = 1
    seconds: float = 0.0
    share: float = 0.0

    def sooner(self) -> "Kill":
        """The same after half the time and at half the share."""
        return replace(self, seconds=self.seconds / 2, share=self.share / 2)


def draw(count: int, seed: int, runs: Sequence[Run]) -> list[Kill]:
    """Kills spread evenly over moments, runs, victims and signals, in random combinations."""
    rng = random.Random(seed)
    moments, victims = _deck(rng, _MOMENTS, count), _deck(rng, _VICTIMS, count)
    signals, targets, steps = _deck(rng, _SIGNALS, count), _deck(rng, runs, count), _deck(rng, _STEPS, count)
    kills = []
    for moment, victim, signum, run, step in zip(moments, victims, signals, targets, steps, strict=True):
        seconds = math.exp(rng.uniform(*map(math.log, _SECONDS.get(moment, (1.0, 1.0)))))
        share, start = rng.uniform(0, 0.9), rng.randrange(1, 2 + count // 4)
        if moment == "start":
            # Nothing but Snakemake is there yet.
            kills.append(
                Kill(moment, victim if victim == "group" else "snakemake", signum, start=start, seconds=seconds)
            )
        elif moment == "report":
            kills.append(Kill(moment, victim, signum, step=step, seconds=seconds))
        elif moment == "job":
            kills.append(Kill(moment, victim, signum, run=run, seconds=seconds))
        else:
            kills.append(Kill(moment, victim, signum, run=run, share=share))
    return kills


def _deck(rng: random.Random, cards: Sequence[_Card], count: int) -> list[_Card]:
    """That many cards, each about as often as it stands in ``cards``, shuffled."""
    deck = [cards[index % len(cards)] for index in range(count)]
    rng.shuffle(deck)
    return deck
