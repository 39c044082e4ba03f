"""Time things side by side: every round runs each once, in random order, and ratios are taken within a round."""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ofq.runs.provenance import machine, versions


@dataclass
class Times:
    """Seconds of each round, by the clock on the wall and of this process."""

    wall: list[float] = field(default_factory=list)
    process: list[float] = field(default_factory=list)


def interleaved(runs: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 2) -> dict[str, Times]:
    """Seconds of each run in each round. A disturbance of the machine meets one round, not one contestant."""
    order = list(runs)
    times = {name: Times() for name in order}
    shuffle = random.Random(0).shuffle
    for number in range(-warm_up, rounds):
        shuffle(order)
        for name in order:
            wall, process = time.perf_counter(), time.process_time()
            runs[name]()
            if number >= 0:
                times[name].wall.append(time.perf_counter() - wall)
                times[name].process.append(time.process_time() - process)
    return times


def table(times: Mapping[str, Times], *, base: str) -> str:
    """Milliseconds and ratios to the base in the same round as min/median/max, and the ratio of process times."""
    lines = [f"{'':<24} {'ms, min/median/max':>26} {'ratio, min/median/max':>24} {'process':>8}"]
    for name, taken in times.items():
        wall = _ratios(taken.wall, times[base].wall)
        process = statistics.median(_ratios(taken.process, times[base].process))
        milliseconds = "/".join(f"{1000 * value:.1f}" for value in _three(taken.wall))
        ratio = "/".join(f"{value:.2f}" for value in _three(wall))
        lines.append(f"{name:<24} {milliseconds:>26} {ratio:>24} {process:>8.2f}")
    return "\n".join(lines)


def conditions() -> str:
    """Machine, libraries and threads, in one line."""
    this, used = machine(), versions()
    libraries = ", ".join(f"{name} {used[name]}" for name in ("python", "torch", "timm"))
    return f"{this['cpu']}, {this['cores']} cores, {torch.get_num_threads()} thread(s), float32; {libraries}"


def _ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    return [value / other for value, other in zip(values, base, strict=True)]


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)
