"""Draw the graph of rules that Snakemake prints as a picture of the pipeline, from left to right.

    snakemake --rulegraph | python docs/rulegraph.py

It writes docs/images/rulegraph.svg and docs/images/rulegraph.png. An arrow that longer paths imply is left out.
"""

import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

IMAGES = Path(__file__).parent / "images"
STEP, GAP = 1.6, 0.62  # inches between the middles of two columns, and of two boxes of a column
FILLS = {"data": "#e8e8e8", "teacher": "#cfe6f5", "qat": "#ffe3b0", "cga": "#ffe3b0"}
REPORT = "#d5efe5"

Edges = set[tuple[str, str]]


def parse(dot: str) -> Edges:
    """Pairs of rules (from, to); the target that only gathers files is left out.

    Raises:
        SystemExit: the text is no graph of rules.
    """
    names = dict(re.findall(r'(\d+)\[label = "([^"\\]+)', dot))
    edges = {(names[a], names[b]) for a, b in re.findall(r"(\d+) -> (\d+)", dot)}
    ends = {b for _, b in edges} - {a for a, _ in edges}
    if not edges:
        raise SystemExit("nothing to draw; run: snakemake --rulegraph | python docs/rulegraph.py")
    return {(a, b) for a, b in edges if b not in ends} if len(ends) == 1 else edges


def depth(rule: str, edges: Edges) -> int:
    """Length of the longest path that leads to the rule."""
    return max((1 + depth(a, edges) for a, b in edges if b == rule), default=0)


def follows(rule: str, edges: Edges) -> set[str]:
    """All rules that need the rule's files, directly or not."""
    return {x for a, b in edges if a == rule for x in {b, *follows(b, edges)}}


def draw(edges: Edges) -> None:
    """Write both pictures."""
    edges = {(a, b) for a, b in edges if not any(b in follows(other, edges) for x, other in edges if x == a)}
    columns: dict[int, list[str]] = {}
    for rule in sorted({rule for edge in edges for rule in edge}):
        columns.setdefault(depth(rule, edges), []).append(rule)
    places: dict[str, tuple[float, float]] = {}

    def height_before(rule: str) -> float:
        """The mean height of the rules before it, beside which it is to stand."""
        heights = [places[a][1] for a, b in edges if b == rule]
        return sum(heights) / len(heights) if heights else 0.0

    for x, rules in sorted(columns.items()):
        for i, rule in enumerate(sorted(rules, key=height_before, reverse=True)):
            places[rule] = (x * STEP, ((len(rules) - 1) / 2 - i) * GAP)
    height = GAP * max(map(len, columns.values()))
    plt.rcParams.update({"svg.hashsalt": "rulegraph", "svg.fonttype": "none"})
    figure = plt.figure(figsize=(STEP * len(columns), height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-STEP / 2, STEP * (len(columns) - 0.5)), ylim=(-height / 2, height / 2))
    axes.axis("off")
    boxes = {}
    for rule, place in places.items():
        box = {"boxstyle": "round,pad=0.45", "facecolor": FILLS.get(rule, REPORT), "edgecolor": "#444444"}
        boxes[rule] = axes.text(*place, rule, ha="center", va="center", fontsize=11, bbox=box).get_bbox_patch()
    figure.canvas.draw()  # only now the boxes have their sizes, to which the arrows reach
    for start, end in sorted(edges):
        line = {"arrowstyle": "-|>", "color": "#666666", "linewidth": 1.3, "shrinkA": 3, "shrinkB": 3}
        ends = {"patchA": boxes[start], "patchB": boxes[end]}
        axes.annotate("", places[end], places[start], arrowprops=line | ends)
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / "rulegraph.svg", metadata={"Date": None})
    figure.savefig(IMAGES / "rulegraph.png", dpi=200, metadata={"Software": None})


if __name__ == "__main__":
    draw(parse(sys.stdin.read()))
