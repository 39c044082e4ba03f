"""Table and figure ``reestimation``: accuracy with running and with re-estimated statistics of batch norms."""

import json
from collections.abc import Sequence
from itertools import product

import pandas as pd

from ofq.config.grid import Grid
from ofq.config.recipes import LAST
from ofq.errors import UserError
from ofq.report import collect, paper
from ofq.report.panels import finish, line, panels, seeds
from ofq.report.paper import PaperNumber
from ofq.report.render import cells, signed, write_table
from ofq.report.style import save
from ofq.runs.files import AGAIN, reading
from ofq.runs.paths import Run
from ofq.runs.published import check

_IN_TABLE = {
    "running": "top1_last",
    "running_spread": "top1_last_sd",
    "reestimated": "top1_reestimated_last",
    "reestimated_spread": "top1_reestimated_last_sd",
}
_OVER_TIME = {"running": "val/top1", "re-estimated": "val/top1_reestimated"}
_LOOKS = {"running": {"color": "#D55E00", "marker": "s"}, "re-estimated": {"color": "#0072B2", "marker": "o"}}


def write_reestimation(grid: Grid) -> None:
    """Write ``tables/reestimation.*`` and draw ``figures/reestimation.*``.

    Args:
        grid: the grid whose report is written.

    Raises:
        UserError: a file of a run is missing or damaged, or it was not evaluated with re-estimated statistics.
    """
    _write_table(grid)
    _draw(grid, evaluations(grid.students))


def _write_table(grid: Grid) -> None:
    frame = collect.metrics(grid.students, *_IN_TABLE.values())
    frame = frame.assign(**{name: frame[key] for name, key in _IN_TABLE.items()})
    frame["gain"] = frame["reestimated"] - frame["running"]
    data = collect.spread(frame, [*_IN_TABLE, "gain"])
    models = {name: grid.params.models[name].paper_model for name in grid.models}
    places = [(models[model], bits, name) for model, bits, name in zip(*map(data.get, collect.KEYS), strict=True)]
    numbers = {
        "paper_running": [paper.running(*place) for place in places],
        "paper_reestimated": [paper.reestimated(*place) for place in places],
    }
    for column, each in numbers.items():
        data[f"{column}_mean"] = pd.Series([None if one is None else one.value for one in each], dtype=float)
        data[f"{column}_sd"] = pd.Series([float(one.sd) if one and one.sd else None for one in each], dtype=float)
    shown = {
        **data[collect.KEYS],
        "seeds": data["n"],
        "running, top-1 %": cells(data, "running"),
        "spread, running": cells(data, "running_spread"),
        "re-estimated, top-1 %": cells(data, "reestimated"),
        "spread, re-estimated": cells(data, "reestimated_spread"),
        "gain, points": cells(data, "gain", form=signed),
        "Nagel et al., ImageNet, running": _as_printed(numbers["paper_running"]),
        "Nagel et al., ImageNet, re-estimated": _as_printed(numbers["paper_reestimated"]),
    }
    known = any(one for each in numbers.values() for one in each)
    beside = ", ".join(f"{name} beside {model}" for model, name in models.items() if name)
    source = f" Theirs ({beside}) are ImageNet results at another scale: {paper.NAGEL_SOURCE}." if known else ""
    caption = (
        f"As Table 2 of Nagel et al. Study {grid}: accuracy with running statistics of batch norms and with statistics "
        f"estimated anew over training batches; mean ± standard deviation over {grid.seeds_in_words}, on the "
        f"{grid.data.evaluate} images of {grid.data.title}; {collect.one_image(grid)}. Each seed counts with its mean "
        f"over the last {LAST} evaluations; spread is the standard deviation over these, mean over seeds. A gain by "
        "re-estimation is no evidence of oscillation by itself, as running means lag behind any weights that move: "
        f"compare it with that at 8 bits, and with that of codes that are held.{source}"
    )
    write_table(grid.directory / "tables", "reestimation", data, shown, list(data["runs"]), caption)


def _as_printed(numbers: Sequence[PaperNumber | None]) -> list[str]:
    return ["–" if each is None else each.shown for each in numbers]


def _draw(grid: Grid, frame: pd.DataFrame) -> None:
    """Draw the last evaluations, a row of panels for each model and variant and a column for each bit width."""
    data = collect.spread(frame, list(_OVER_TIME), by=[*collect.KEYS, "step"])
    rows = list(product(grid.models, grid.quantized))
    figure, axes = panels(len(grid.bits), len(rows), height=1.6, sharey="col")
    for row, (model, name) in zip(axes, rows, strict=True):
        for ax, bits in zip(row, grid.bits, strict=True):
            here = collect.only(data, model=model, bits=bits, variant=name)
            for kind, look in _LOOKS.items():
                line(ax, here["step"], here[f"{kind}_mean"], here[f"{kind}_sd"], label=f"{kind} statistics", **look)
            several = f"{model}, " if len(grid.models) > 1 else ""
            ax.set_title(f"{several}{name}, {bits.upper()}", fontsize=9)
    title = (
        f"{grid}: accuracy with running and re-estimated statistics of batch norms at the last {LAST} evaluations\n"
        f"mean ± sd over seeds; {seeds(grid)}; {collect.one_image(grid)}"
    )
    finish(figure, axes, x="optimizer step", y="top-1, %", title=title)
    save(figure, grid.directory / "figures", "reestimation", frame["run"])


def evaluations(runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row for each of the last evaluations of each run: its step, and accuracy with both kinds of statistics.

    Raises:
        UserError: an event log is missing or damaged, or has none of these.
    """
    frames = []
    for run in runs:
        path = run.files.events
        with reading(path):
            check(path)
            events = [json.loads(row) for row in path.read_text().splitlines()]
        try:
            steps = [event for event in events if event["event"] == "step"][-LAST:]
            rows = [{"step": event["step"]} | {kind: event[key] for kind, key in _OVER_TIME.items()} for event in steps]
        except (KeyError, TypeError):
            raise UserError(f"{path} is no log with {' and '.join(_OVER_TIME.values())}; {AGAIN}") from None
        frames.append(pd.DataFrame(rows).assign(**collect.coordinates(run), seed=run.seed))
    return pd.concat(frames, ignore_index=True)
