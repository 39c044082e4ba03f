"""How the step's time grows with width, depth, tokens and bits.

python -m benchmarks.growth                             prints the table, writes docs/images/growth.svg
python -m benchmarks.growth --rounds 20 --output /tmp/growth.svg

One axis is changed at a time, from a model of width 128, depth 4 and 66 tokens at 2 bits. The models of an axis run
interleaved; time is that of the process, which other work on the machine disturbs less than the clock on the wall.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from benchmarks.rounds import conditions, interleaved
from benchmarks.subjects import Size, subject
from ofq.runs.files import replacing

BASE = Size(image=32, patch=4, width=128, depth=4, heads=4, batch=16)
AXES = {
    "width": [replace(BASE, width=width, heads=width // 32) for width in (64, 128, 256, 384)],
    "depth": [replace(BASE, depth=depth) for depth in (2, 4, 8, 12)],
    "tokens": [replace(BASE, image=image) for image in (16, 32, 48, 64)],
    "bits": [replace(BASE, bits=bits) for bits in (2, 3, 4, 6, 7, 8)],
}
SUBJECTS = ["fp", "lsq", "statsq", "statsq-qkr"]


def place(axis: str, size: Size) -> int:
    """Where a model stands on an axis."""
    tokens = (size.image // size.patch) ** 2 + 2
    return {"width": size.width, "depth": size.depth, "tokens": tokens, "bits": size.bits}[axis]


def measure(axis: str, rounds: int) -> dict[str, list[float]]:
    """Median milliseconds of process time for every subject at every place of the axis."""
    points = {(place(axis, size), name): subject(size, name).step for size in AXES[axis] for name in SUBJECTS}
    times = interleaved({f"{at} {name}": step for (at, name), step in points.items()}, rounds=rounds)
    median = {key: 1000 * statistics.median(taken.process) for key, taken in times.items()}
    return {name: [median[f"{place(axis, size)} {name}"] for size in AXES[axis]] for name in SUBJECTS}


def main() -> None:
    """Print a table of every axis and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, default=Path("docs/images/growth.svg"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"from {BASE}\n{conditions()}; {arguments.rounds} rounds; process time", flush=True)
    figure, panels = plt.subplots(1, len(AXES), figsize=(13, 3.2), layout="constrained")
    for axis, panel in zip(AXES, panels, strict=True):
        places = [place(axis, size) for size in AXES[axis]]
        print(f"\n{axis:<24}" + "".join(f"{at:>16}" for at in places))
        medians = measure(axis, arguments.rounds)
        for name, values in medians.items():
            ratios = [value / other for value, other in zip(values, medians["fp"], strict=True)]
            cells = (f"{value:>7.1f} ms {ratio:>5.2f}" for value, ratio in zip(values, ratios, strict=True))
            print(f"{name:<24}" + "".join(f"{cell:>16}" for cell in cells), flush=True)
            panel.plot(places, values, marker="o", label=name)
        panel.set(xlabel=axis, ylim=(0, None), xticks=places)
    panels[0].set_ylabel("step, ms of process time")
    panels[0].legend(frameon=False)
    with replacing(arguments.output) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
