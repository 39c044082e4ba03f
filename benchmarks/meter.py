"""What measuring oscillation and annealing add to a quantization-aware training step.

python -m benchmarks.meter                                      DeiT-T, StatsQ with query-key reparameterization
python -m benchmarks.meter --size micro --rounds 40 --kind statsq

Rows are whole steps, beside the plain one. The last lines are the time inside the hooks alone, in percent of the plain
step, because a percent is less than the noise between two steps.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.rounds import conditions, interleaved, table
from benchmarks.subjects import KINDS, SIZES, Size, subject
from ofq.oscillation.recorder import OscillationRecorder
from ofq.remedies import ConfidenceGuidedAnnealing

BOUNDARY_RANGE = 0.005


def hooked(size: Size, kind: str, hook: str) -> tuple[Callable[[], None], list[float]]:
    """A training step with a hook around the optimizer's, and the list that takes the seconds spent in the hook."""
    measured = subject(size, kind)
    model, spent = measured.model, list[float]()
    hooks = {"meter": OscillationRecorder, "cga": lambda model: ConfidenceGuidedAnnealing(model, BOUNDARY_RANGE)}
    around = hooks[hook](model)
    update = measured.optimizer.step

    def step() -> None:
        start = time.perf_counter()
        around.before_update(0.0)
        middle = time.perf_counter()
        update()
        end = time.perf_counter()
        around.after_update(0.0)
        spent.append(middle - start + time.perf_counter() - end)

    measured.optimizer.step = step  # type: ignore[method-assign]
    return measured.step, spent


def main() -> None:
    """Print the steps and the share of the hooks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--kind", choices=KINDS, default="statsq-qkr")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size, kind = SIZES[arguments.size], arguments.kind
    steps, seconds = {kind: subject(size, kind).step}, {}
    for hook in ("meter", "cga"):
        steps[f"{kind} + {hook}"], seconds[hook] = hooked(size, kind, hook)
    print(f"{arguments.size}: {size}\n{conditions()}; {arguments.rounds} rounds", flush=True)
    times = interleaved(steps, rounds=arguments.rounds)
    print(table(times, base=kind))
    plain = statistics.median(times[kind].wall)
    for hook, spent in seconds.items():
        inside = statistics.median(spent[-arguments.rounds :])
        print(f"{hook} hook: {1000 * inside:.1f} ms, {100 * inside / plain:.1f} % of the plain step")


if __name__ == "__main__":
    main()
