"""The figure ``oscillation``: how oscillation develops in training, and what further steps make of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from ofq.config.grid import Grid
from ofq.config.resolve import resolve
from ofq.report import collect
from ofq.report.looks import MOST, in_panels, looks
from ofq.report.panels import legend, line, panels, seeds
from ofq.report.style import save
from ofq.runs.files import write_text
from ofq.runs.paths import Run
from ofq.runs.published import read_metrics

_BEHIND: dict[str, Any] = {"color": "#c4c4c4", "linewidth": 0.8, "zorder": 1}
_AT_ONE_WIDTH = 3  # panels of a row, where a grid has a single bit width


@dataclass(frozen=True)
class _Panel:
    """What one panel shows.

    Attributes:
        model: model of its runs.
        bits: their bit width.
        names: variants in their colours.
        parent: the variant whose finished run the others continue; None in a panel of trainings.
    """

    model: str
    bits: str
    names: list[str]
    parent: str | None = None


def write_over_training(grid: Grid, record: pd.DataFrame) -> None:
    """Draw ``figures/oscillation.*`` and write ``oscillation.csv``.

    First the trainings, each variant in a panel of its own, or each kind where there are many, the others grey behind
    it; then, on a scale of its own, what becomes of a run that is annealed, beside the controls that go on without it.

    Args:
        grid: the grid whose report is written.
        record: ``oscillation.parquet`` of its runs.
    """
    data = _over_training(grid, record)
    write_text(grid.directory / "figures" / "oscillation.csv", _curves(data).to_csv(index=False))
    blocks = _trainings(grid), _annealings(grid)
    columns = len(grid.bits) if len(grid.bits) > 1 else min(_AT_ONE_WIDTH, max(map(len, blocks)))
    rows = [row for block in blocks for row in _rows(block, columns)]
    figure, axes = panels(columns, len(rows), height=1.55)
    for row, shown in zip(axes, rows, strict=True):
        for ax, panel in zip(row, shown, strict=False):
            _draw(ax, grid, data, panel)
        for ax in row[len(shown) :]:
            ax.set_visible(False)
        row[0].set_ylabel("oscillating, %")
        row[0].set_ylim(bottom=0)
    for ax in axes[-1][: len(rows[-1])]:
        ax.set_xlabel("optimizer step")
    ends = "; grey: the other variants" if len(blocks[0]) > len(grid.places) else ""
    figure.suptitle(
        f"{grid}: weights with reversal frequency {collect.OFTEN} over training, and while annealed\n"
        f"mean ± sd over seeds; {seeds(grid)}{ends}"
    )
    legend(figure, axes)
    save(figure, grid.directory / "figures", "oscillation", record["run"])


def _trainings(grid: Grid) -> list[_Panel]:
    trained = list(dict.fromkeys(run.variant for run in grid.trained))
    kinds = [[name] for name in trained]
    if len(trained) > MOST:
        kinds = [kind for each in in_panels(grid) if (kind := [name for name in each if name in trained])]
    return [_Panel(model, bits, kind) for model, kind, bits in product(grid.models, kinds, grid.bits)]


def _annealings(grid: Grid) -> list[_Panel]:
    children: dict[str, list[str]] = {}
    for name in grid.quantized:
        if (parent := grid.params.variant(name).parent) is not None:
            children.setdefault(parent, []).append(name)
    most = MOST - 1  # beside the parent
    parts = [(name, each[i : i + most]) for name, each in children.items() for i in range(0, len(each), most)]
    return [
        _Panel(model, bits, names, parent) for model, (parent, names), bits in product(grid.models, parts, grid.bits)
    ]


def _rows(panels: Sequence[_Panel], columns: int) -> list[Sequence[_Panel]]:
    return [panels[first : first + columns] for first in range(0, len(panels), columns)]


def _draw(ax: Axes, grid: Grid, data: pd.DataFrame, panel: _Panel) -> None:
    styles = looks(grid)
    here = collect.only(data, model=panel.model, bits=panel.bits)
    trained = {name: here[here["variant"] == name] for name in panel.names}
    if panel.parent is None:
        end = max(part["step"].max() for part in trained.values())
        others = dict.fromkeys(run.variant for run in grid.trained if run.variant not in panel.names)
        for name in others:
            other = here[here["variant"] == name]
            ax.plot(other["step"], other["share_mean"], **_BEHIND)
        title = panel.names[0] if len(panel.names) == 1 else ""
    else:
        before = here[here["variant"] == panel.parent]
        end = before["step"].max() if len(before) else min(part["step"].min() for part in trained.values())
        ax.axvline(end, color="black", linestyle="-.", linewidth=1, label="annealing from here on")
        before = before[before["step"] >= _constant_from(grid, panel, end)]
        trained = {panel.parent: before} | trained if len(before) else trained
        title = f"{panel.parent}, continued"
    for name, part in trained.items():
        line(ax, part["step"], part["share_mean"], part["share_sd"], label=name, **styles[name])
    if (constant := _constant_from(grid, panel, end)) < end and (panel.parent is None or panel.parent in trained):
        ax.axvline(constant, color="black", linestyle=":", linewidth=1, label="constant learning rate from here on")
    several = len(grid.models) > 1
    ax.set_title(", ".join(filter(None, (panel.model if several else "", title, panel.bits.upper()))), fontsize=9)


def _constant_from(grid: Grid, panel: _Panel, end: float) -> float:
    """Return the step from which a training that ends at step ``end`` has its lowest learning rate."""
    run = Run(grid.study, panel.model, panel.bits, panel.parent or panel.names[0], grid.seeds[0])
    train: Any = resolve(grid.params, run).train
    if train.epochs:
        return end * (1 - train.constant_epochs / train.epochs)
    return float(end * (1 - train.constant_steps / train.steps))


def _over_training(grid: Grid, record: pd.DataFrame) -> pd.DataFrame:
    """Return the percentage of oscillating weights at each recorded step, mean and deviation over seeds.

    The steps of an annealed run continue those of its parent.

    Returns:
        Columns model, bits, variant, step, n, share_mean, share_sd.
    """
    shares = collect.group_means(record, [*collect.KEYS, "run", "step"], ["share"])
    data = collect.spread(shares, ["share"], by=[*collect.KEYS, "step"])

    @cache
    def steps_before(model: str, bits: str, name: str) -> int:
        parent = grid.params.variant(name).parent
        if parent is None:
            return 0
        run = Run(grid.study, model, bits, parent, grid.seeds[0])
        train = resolve(grid.params, run).train
        # How many steps epochs take is known where the images are.
        return (train and train.steps) or int(read_metrics(run.files.metrics, "steps")["steps"])

    offsets = [steps_before(*key) for key in data[collect.KEYS].itertuples(index=False, name=None)]
    return data.assign(step=data["step"] + offsets)


def _curves(data: pd.DataFrame) -> pd.DataFrame:
    """Return what ``dvc plots`` draws: columns step, panel (model and bits), variant, share."""
    return pd.DataFrame(
        {
            "step": data["step"],
            "panel": data["model"] + " " + data["bits"],
            "variant": data["variant"],
            "share": data["share_mean"],
        }
    )
