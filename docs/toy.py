"""The toy of oscillation.md: weights pulled towards a target through a quantizer, and nothing else.

It uses the quantizers and the meter that training uses. Run in the project's root, ``python docs/toy.py`` draws
docs/images/toy.png and prints the table of the page.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes

# The package of this checkout, whichever one is installed.
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from ofq.measure.toy import BITS, LR, OTHERS, START, STEP, TARGET, Trace, learned, train
from ofq.quant import StatsQuantizer
from ofq.report.style import WIDTH

PICTURE = Path(__file__).parent / "images" / "toy.png"
SCALE_LR = 0.005
POSITIONS = [n / 40 for n in range(1, 40)]


def cases() -> dict[str, Trace]:
    """The same weight under three quantizers; StatsQ's step is a statistic of its row, so it gets a row of eight."""
    start, target = torch.tensor([[START]]), torch.tensor([[TARGET]])
    row = torch.tensor([[TARGET, *OTHERS]])
    return {
        "fixed step": train(learned(torch.tensor([STEP])), start, target),
        "learned step (LSQ)": train(learned(torch.tensor([STEP])), start, target, scale_lr=SCALE_LR),
        "statistical step (StatsQ)": train(
            StatsQuantizer(BITS), torch.tensor([[START, *(0.5 * x for x in OTHERS)]]), row
        ),
    }


def law(lr: float) -> list[float]:
    """Reversals a step against the target's place between two levels, with a fixed step."""
    place = torch.tensor(POSITIONS)[:, None]
    start = torch.full_like(place, STEP / 2)
    trace = train(learned(torch.full((len(place),), STEP)), start, STEP * place, lr=lr, steps=2000)
    return trace.reversals[:, 0].tolist()


def table(traces: dict[str, Trace]) -> str:
    """Markdown: what each quantizer made of the weight in the last 300 steps, and of how often it turned round."""
    lines = ["| quantizer | levels visited at the end | their mean | target | reversals a step |", "| --- " * 5 + "|"]
    for name, trace in traces.items():
        last = trace.values[-300:, 0, 0]
        levels = len(trace.codes[-300:, 0, 0].unique())
        lines.append(f"| {name} | {levels} | {last.mean():.3f} | {TARGET} | {trace.reversals[0, 0]:.2f} |")
    return "\n".join(lines)


def draw(traces: dict[str, Trace], path: Path = PICTURE) -> None:
    """Draw one panel for each quantizer, and how often a weight turns round against where its target lies."""
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 6.0))
    for ax, (name, trace) in zip(axes.flat, traces.items(), strict=False):
        _weight(ax, trace)
        ax.set_title(name)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    ax = axes[1, 1]
    for rate, marker in ((LR, "o"), (LR / 10, "x")):
        ax.plot(POSITIONS, law(rate), marker, markersize=4, label=f"learning rate {rate:g}")
    ax.plot([0, 0.5, 1], [0, 1, 0], color="#777777", linewidth=1, label="2·min(d, 1−d)")
    ax.set_title("how often a weight turns round")
    ax.set_xlabel("d: place of the target between two levels")
    ax.set_ylabel("reversals a step")
    ax.legend(fontsize=8)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def _weight(ax: Axes, trace: Trace, shown: int = 100) -> None:
    ax.step(range(shown), trace.values[:shown, 0, 0], where="post", color="#56B4E9", linewidth=1, label="quantized")
    ax.plot(range(shown), trace.weights[:shown, 0, 0], color="#D55E00", label="latent weight")
    ax.axhline(TARGET, color="black", linestyle=":", linewidth=1, label="target")
    ax.set_xlabel("optimizer step")
    ax.set_ylabel("weight")
    ax.set_ylim(-0.05, 0.6)


if __name__ == "__main__":
    results = cases()
    draw(results)
    print(table(results))
