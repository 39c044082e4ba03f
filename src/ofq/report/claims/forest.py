"""Draw the verdicts that matter most as a forest: effects with their intervals, each on a scale of its own."""

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ofq.report.claims.page import Row
from ofq.report.render import interval, p_value
from ofq.report.style import WIDTH

COLOURS = {"supported": "#009E73", "contradicted": "#D55E00", "undecided": "#777777", "untested": "#777777"}
_MARKERS = {"supported": "o", "contradicted": "s", "undecided": "D", "untested": "D"}
_EXPECTED = "#e8f1ee"
_SMALL = 8  # points
_LETTERS = 46  # of a line of a statement
_LINE, _GAP, _AROUND = 0.15, 0.12, 0.9  # inches that a line takes, a row besides, and what is above and below
_EDGE = 1.15  # of the panel, where an interval reaches to 1


def forest(rows: Sequence[Row], title: str) -> Figure:
    """Return the figure: a row for each claim, with its statement, its effect and its verdict.

    Effects have several units, so that each row has its own scale: the farther end of its interval, or of the margin
    of an equality, is the edge of the panel. The side on which the statement has the effect is shaded.
    """
    statements = [textwrap.wrap(row.claim.statement, _LETTERS) for row in rows]
    heights = [_LINE * max(2, len(lines)) + _GAP for lines in statements]
    height = sum(heights) or _LINE
    figure, ax = plt.subplots(figsize=(WIDTH, height + _AROUND))
    ax.set(xlim=(-_EDGE, _EDGE), ylim=(height, 0), xticks=[0], xticklabels=["0"], yticks=[])
    shaded = "shaded: where the statement has it; p: corrected for all claims"
    ax.set_xlabel(f"effect with its 95 % interval, each on its own scale;\n{shaded}", fontsize=_SMALL)
    ax.spines["left"].set_visible(False)
    ax.grid(visible=False)
    ax.axvline(0, color="black", linewidth=0.8)
    top = 0.0
    for row, lines, own in zip(rows, statements, heights, strict=True):
        _row(ax, row, lines, top=top, height=own)
        top += own
    figure.suptitle(title)
    return figure


def _row(ax: Axes, row: Row, lines: list[str], *, top: float, height: float) -> None:
    """Draw one claim between ``top`` and ``top + height``, in inches below the panel's upper edge."""
    claim, found, verdict = row.claim, row.outcome.estimate, row.outcome.verdict
    middle, colour = top + height / 2, COLOURS[verdict]
    beside = ax.get_yaxis_transform()  # across: shares of the panel's width
    ax.text(-0.04, middle, "\n".join(lines), transform=beside, ha="right", va="center", fontsize=_SMALL)
    right: dict[str, Any] = {"transform": beside, "va": "center", "fontsize": _SMALL}
    p = row.outcome.p_adjusted
    told = f"{verdict}, n = {found.n}{'' if p is None else f', p {p_value(p)}'}"
    ax.text(1.04, middle - _LINE / 2, told, weight="bold", color=colour, **right)
    if found.effect is None:
        return
    ax.text(1.04, middle + _LINE / 2, f"{interval(found.effect, found.interval)} {claim.unit}", **right)
    ends = [found.effect, *(found.interval or ())]
    scale = max(abs(end) for end in [*ends, claim.margin or 0.0]) or 1.0
    limit = _EDGE if claim.margin is None else claim.margin / scale
    expected = (-limit if claim.expect != "above" else 0.0, limit if claim.expect != "below" else 0.0)
    ax.fill_betweenx([top + 0.04, top + height - 0.04], *expected, color=_EXPECTED, linewidth=0)
    ax.plot([end / scale for end in (min(ends), max(ends))], [middle] * 2, color=colour, linewidth=2)
    ax.plot(found.effect / scale, middle, marker=_MARKERS[verdict], color=colour, markersize=6)
