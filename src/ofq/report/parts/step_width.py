"""What of a difference in oscillation is the width of the step: runs against the curve of steps that do not learn."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ofq.config.grid import Grid
from ofq.report import collect
from ofq.report.differences import compared_by_seed, decided, differences, how_marked, how_tested, marked
from ofq.report.looks import in_panels, looks
from ofq.report.panels import half_interval, legend, panels, seeds
from ofq.report.render import cells, write_table
from ofq.report.style import save
from ofq.report.widths import WIDTHS, on_curve, step_width
from ofq.runs.files import write_text

# Each quantity is held against the width of the time to which it belongs.
_QUANTITIES = {
    "reversals": ("width_run", "reversals\na weight"),
    "osc_share": ("width_end", f"weights with reversal\nfrequency {collect.OFTEN}, %"),
}
_ACCURACY = {"top1": ("width_run", "top-1, %"), "loss": ("width_run", "cross-entropy,\nnats")}
_WIDTH_LABELS = {
    "width_run": "step, sd of its row, over the run",
    "width_end": "step, sd of its row, at the end",
}
_CURVE = "#555555"
_EXCESS = ["excess_reversals", "excess_share"]


def write_step_width(grid: Grid) -> None:
    """Write the table ``step_width`` and the figures ``step_width`` and ``step_width_accuracy``.

    Reversals, which count over the whole run, are held against the mean width over it; the share of oscillating weights
    at the end against the width at the end. The curve goes through the variants under ``curve``, seed by seed. Annealed
    variants are left out: their reversals are those of the annealing alone.

    Args:
        grid: the grid whose report is written.

    Raises:
        UserError: a run is missing.
    """
    points = _points(grid)
    write_text(grid.directory / "figures" / "step_width.csv", points.to_csv(index=False))
    _table(grid, points)
    _figure(grid, points, "step_width", _QUANTITIES, "oscillation against the width of the step")
    worth = collect.one_image(grid)
    _figure(grid, points, "step_width_accuracy", _ACCURACY, f"accuracy against the width of the step; {worth}")


def _points(grid: Grid) -> pd.DataFrame:
    """Return one row for each run, with the value of the curve at its own width where that lies in its range."""
    frame = collect.metrics(grid.trained, *_QUANTITIES)[["run", *collect.KEYS, "seed", "top1", "loss", *_QUANTITIES]]
    frame.insert(5, "step", ["learned" if _learns(grid, name) else "held" for name in frame["variant"]])
    records = [collect.read_record(run.files.oscillation) for run in grid.trained]
    for when in WIDTHS:
        frame[f"width_{when}"] = [step_width(record, when) for record in records]
    frame = frame.astype({f"width_{when}": float for when in WIDTHS})
    for quantity, (width, _) in _QUANTITIES.items():
        frame[f"curve_{quantity}"] = np.nan
        for _, seed in frame.groupby([*collect.PLACE, "seed"], sort=False):
            through = seed[seed["variant"].isin(grid.curve)].dropna(subset=width)
            others = seed[~seed["variant"].isin(grid.curve)].dropna(subset=width)
            if len(through) > 1:
                curve = list(zip(through[width], through[quantity], strict=True))
                frame.loc[others.index, f"curve_{quantity}"] = on_curve(others[width].to_numpy(), curve)
    return frame


def _table(grid: Grid, points: pd.DataFrame) -> None:
    frame = points.assign(
        excess_reversals=100 * (points["reversals"] / points["curve_reversals"] - 1),
        excess_share=points["osc_share"] - points["curve_osc_share"],
    )
    columns = [*(f"width_{when}" for when in WIDTHS), *_QUANTITIES, "excess_reversals", "excess_share", *_ACCURACY]
    keys = [*collect.KEYS, "step"]
    data, compared = collect.spread(frame, columns, by=keys), compared_by_seed(frame, _EXCESS, by=keys)
    most, least = decided(frame, "top1"), decided(frame, "loss", lowest=True)
    grouped = frame.groupby([*collect.KEYS, "step"], sort=False)
    data["inside_reversals"], data["inside_share"] = (
        grouped[name].count().to_numpy() for name in ("excess_reversals", "excess_share")
    )
    for name in _EXCESS:
        data = data.assign(**{part: compared[part] for part in (f"{name}_low", f"{name}_high", f"{name}_p")})
    data = data.assign(runs=data.pop("runs"))
    on_it = data["variant"].isin(grid.curve)
    shown = {
        **data[[*collect.KEYS, "step"]],
        "seeds": data["n"],
        "width at the start": cells(data, "width_start"),
        "over the run": cells(data, "width_run"),
        "at the end": cells(data, "width_end"),
        "reversals a weight": cells(data, "reversals"),
        "Δ to the curve, %": _excess(data, "reversals", on_it),
        "oscillating %": cells(data, "osc_share"),
        "Δ to the curve, points": _excess(data, "share", on_it),
        "top-1 %": marked(data, cells(data, "top1"), most),
        "cross-entropy": marked(data, cells(data, "loss", digits=3), least),
    }
    caption = (
        f"Study {grid}: steps and oscillation, mean ± standard deviation over {grid.seeds_in_words}, on the "
        f"{grid.data.evaluate} images of {grid.data.title}. Width: step in standard deviations of its row, mean over "
        f"the low-bit weights. The curve goes, seed by seed, through {', '.join(grid.curve)}, straight between "
        "neighbours; a run is compared with it at its own width, reversals at that over the run, the share at that of "
        "the end; (n of m): how many runs lie within the range of the curve, the others are left out. "
        f"{how_tested(data[~on_it], _EXCESS)} {how_marked(most, least)}"
    )
    write_table(grid.directory / "tables", "step_width", data, shown, list(data["runs"]), caption)


def _excess(data: pd.DataFrame, name: str, on_it: pd.Series) -> list[str]:
    """Write the excess over the curve; variants that the curve goes through have none."""
    texts, seeds = differences(data, f"excess_{name}"), zip(data[f"inside_{name}"], data["n"], strict=True)
    counts = ["" if inside in (1, n) else f" ({inside} of {n})" for inside, n in seeds]
    return ["on it" if on else f"{text}{count}" for text, count, on in zip(texts, counts, on_it, strict=True)]


def _figure(grid: Grid, points: pd.DataFrame, name: str, shown: Mapping[str, tuple[str, str]], title: str) -> None:
    """Draw some quantities against the width, a dot for each run, and each variant's mean with its 95 % interval.

    Args:
        grid: the grid whose report is written.
        points: a row for each run.
        name: of the files.
        shown: by the name of a quantity the width against which it is drawn, and the label of its axis.
        title: what is drawn.
    """
    styles, compared = looks(grid), set(points["variant"]) - set(grid.curve)
    kinds = [kind for each in in_panels(grid) if (kind := [name for name in each if name in compared])]
    rows = [(model, quantity, kind) for model in grid.models for quantity in shown for kind in kinds or [[]]]
    figure, axes = panels(len(grid.bits), len(rows), height=1.9, sharey=False)
    for row, (model, quantity, kind) in zip(axes, rows, strict=True):
        width, label = shown[quantity]
        for ax, bits in zip(row, grid.bits, strict=True):
            here = collect.only(points, model=model, bits=bits)
            _curve(ax, here[here["variant"].isin(grid.curve)], width, quantity)
            for each in kind:
                _mean(ax, here[here["variant"] == each], width, quantity, label=each, **styles[each])
            ax.set_title(f"{model}, {bits.upper()}{_what(grid, kind)}", fontsize=9)
            ax.set_xlabel(_WIDTH_LABELS[width], fontsize=9)
        row[0].set_ylabel(label)
    figure.suptitle(
        f"{grid}: {title}\nmean with its 95 % interval, a dot for each run; {seeds(grid)}\n"
        f"curve: through {grid.curve[0]} to {grid.curve[-1]}, mean ± sd over seeds"
    )
    legend(figure, axes)
    save(figure, grid.directory / "figures", name, points["run"])


def _what(grid: Grid, kind: Sequence[str]) -> str:
    """Say whether all of some variants have a learned step, or all a held one."""
    learned = [_learns(grid, name) for name in kind]
    return f", {'learned' if all(learned) else 'held'} steps" if kind and len(set(learned)) == 1 else ""


def _mean(ax: Axes, runs: pd.DataFrame, width: str, quantity: str, **style: Any) -> None:
    """Draw the runs of a variant as dots, and their mean with intervals in both directions."""
    ax.plot(runs[width], runs[quantity], "o", color=style["color"], markersize=2, alpha=0.6, markeredgewidth=0)
    mean, sd, n = (runs[[width, quantity]].agg(how) for how in ("mean", "std", "count"))
    half = half_interval(sd, n)
    x, y, xerr, yerr = mean[width], mean[quantity], half[width], half[quantity]
    ax.errorbar(x, y, xerr=xerr, yerr=yerr, markersize=5, elinewidth=1, **style)


def _curve(ax: Axes, points: pd.DataFrame, width: str, quantity: str) -> None:
    """Draw mean and deviation over seeds of the curves through the points, where all of them have a value."""
    curves = [list(zip(seed[width], seed[quantity], strict=True)) for _, seed in points.groupby("seed")]
    known = [curve for curve in curves if len(curve) > 1 and not np.isnan(curve).any()]
    if known:
        x = np.linspace(max(min(curve)[0] for curve in known), min(max(curve)[0] for curve in known), 200)
        values = np.array([on_curve(x, curve) for curve in known])
        mean, sd = values.mean(0), values.std(0, ddof=1) if len(known) > 1 else np.zeros(len(x))
        ax.plot(x, mean, color=_CURVE, linewidth=1.2, label="curve of held steps")
        ax.fill_between(x, mean - sd, mean + sd, color=_CURVE, alpha=0.25, linewidth=0)


def _learns(grid: Grid, name: str) -> bool:
    return grid.params.source(name).step_learns
