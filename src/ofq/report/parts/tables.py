"""The tables of a study: main result, best variant, agreement with the record, components, oscillation by layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ofq.config.grid import Grid
from ofq.report import collect, paper
from ofq.report.agreement import write_agreement
from ofq.report.differences import compared_by_seed, decided, differences, how_marked, how_tested, marked
from ofq.report.paper import PaperNumber
from ofq.report.parts.best import write_best
from ofq.report.render import cells, number, write_table
from ofq.runs.files import write_json

BASELINE = "lsq"
STATSQ = "factor"  # the switch of StatsQ's step, by which quantizers are known to be it
METRICS = ["top1", "osc_share", "reversals"]
_SCOPE = {
    False: "qk is the product of the query and key weights, which takes their place under QKR.",
    True: "First layer and classifier have 8 bits and are not among them.",
}
_NESTED = ["top1_mean", "top1_sd", "osc_share_mean", "osc_share_sd"]  # for `dvc metrics`


def write_tables(grid: Grid) -> None:
    """Write ``main``, ``best``, ``agreement``, ``ablation`` and ``oscillation`` as CSV, Markdown, LaTeX and HTML.

    Args:
        grid: the grid whose report is written.

    Raises:
        UserError: a run is missing.
    """
    runs = grid.students
    frame = collect.metrics(runs, *METRICS)
    _write_main(grid, frame)
    write_best(grid, frame)
    _write_ablation(grid, frame)
    _write_oscillation(grid, collect.records(runs, "oscillation"))


def _write_main(grid: Grid, frame: pd.DataFrame) -> None:
    data, best = collect.spread(frame, METRICS), decided(frame, "top1")
    paper_models = {name: grid.params.models[name].paper_model for name in grid.models}
    numbers = [paper.top1(paper_models[model], *place) for model, *place in _rows(data)]
    data = data.assign(**_columns("paper_top1", numbers))
    listed = {model: name for model, name in paper_models.items() if name in paper.OFQ_MODELS}
    beside = ", ".join(f"{name} beside {model}" for model, name in listed.items()) or "none"
    implied = any(each is not None and each.mark for each in numbers)
    source = f"{paper.SOURCE}; {paper.IMPLIED_SOURCE}" if implied else paper.SOURCE
    shown = {
        **data[collect.KEYS],
        "seeds": data["n"],
        "top-1 %": marked(data, cells(data, "top1"), best),
        "oscillating %": cells(data, "osc_share"),
        "reversals a weight": cells(data, "reversals"),
        "paper, ImageNet top-1 %": _as_printed(numbers),
    }
    caption = (
        f"As the paper's Table 2. Study {grid}: mean ± standard deviation over {grid.seeds_in_words}, "
        f"{_evaluated(grid)}; {collect.one_image(grid)}. {how_marked(best)} "
        f"Full-precision teachers: {_teacher_accuracy(grid)} top-1. "
        f"Oscillating: share of weights whose reversal frequency is {collect.OFTEN} at the end. "
        "Reversals are counted over the run's own steps; those of the annealed variants over the annealing alone. "
        f"The paper's numbers ({beside}) are ImageNet results at another scale; source: {source}."
    )
    write_table(grid.directory / "tables", "main", data, shown, list(data["runs"]), caption)
    write_json(grid.directory / "tables" / "main.json", _nested(data))
    write_agreement(grid, data)


def _write_ablation(grid: Grid, frame: pd.DataFrame) -> None:
    base = grid.quantized[0] if grid.reestimates else BASELINE
    others = frame.set_index(["model", "bits", "seed"])
    baseline = others[others["variant"] == base]["top1"].reindex(others.index).to_numpy()
    gain = (frame["top1"] - baseline).mask(frame["variant"] == base, 0.0)
    data = collect.spread(frame.assign(gain=gain), ["top1", "gain", "loss"])
    compared = compared_by_seed(frame.assign(gain=gain.mask(frame["variant"] == base)), ["gain"], by=collect.KEYS)
    most, least = decided(frame, "top1"), decided(frame, "loss", lowest=True)
    numbers = [paper.gain(grid.params.models[model].paper_model, *place) for model, *place in _rows(data)]
    sources = [grid.params.source(name) for name in data["variant"]]
    data.insert(3, "statsq", [STATSQ in source.entry.arguments for source in sources])
    data.insert(4, "qkr", [source.qkr for source in sources])
    data.insert(5, "cga", [grid.params.variant(name).cga is not None for name in data["variant"]])
    data = data.assign(**{part: compared[part] for part in ("gain_low", "gain_high", "gain_p")})
    data = data.assign(**_columns("paper_gain", numbers), runs=data.pop("runs"))
    shown = {
        **data[collect.KEYS],
        **{name: data[name.lower()].map({True: "✓", False: ""}) for name in ("StatsQ", "QKR", "CGA")},
        "seeds": data["n"],
        "top-1 %": marked(data, cells(data, "top1"), most),
        f"Δ to {base}, points": differences(compared, "gain"),
        "cross-entropy": marked(data, cells(data, "loss", digits=3), least),
        f"paper, Δ to {base}": _as_printed(numbers),
    }
    source = f" The paper's are ImageNet results at another scale: {paper.GAINS_SOURCE}." if any(numbers) else ""
    remedies = f" {paper.REMEDIES}" if _has_remedies(grid) and not grid.reestimates else ""
    caption = (
        f"As the paper's Table 3. Study {grid}: what each component adds; mean ± standard deviation over "
        f"{grid.seeds_in_words}, {_evaluated(grid)}. Differences to {base} are paired by seed. "
        f"{how_tested(compared, ['gain'])} {how_marked(most, least)}{source}{remedies}"
    )
    write_table(grid.directory / "tables", "ablation", data, shown, list(data["runs"]), caption)


def _write_oscillation(grid: Grid, record: pd.DataFrame) -> None:
    columns = ["share", "share_high", "reversals", "step_width"]
    last = collect.last_steps(record)
    by_group = collect.group_means(last, [*collect.KEYS, "run", "group"], columns)
    overall = collect.group_means(last, [*collect.KEYS, "run"], columns).assign(group="all")
    data = collect.spread(pd.concat([by_group, overall]), columns, by=[*collect.KEYS, "group"])
    groups = [*collect.layer_groups(record), "all"]
    row, place = data.groupby(collect.KEYS, sort=False).ngroup(), data["group"].map(groups.index)
    data = data.iloc[np.lexsort((place, row))].reset_index(drop=True)
    rows = data.drop_duplicates(collect.KEYS).set_index(collect.KEYS)
    text = data.assign(cell=cells(data, "share")).pivot(index=collect.KEYS, columns="group", values="cell")
    shown = text.reindex(rows.index)[groups].fillna("–").reset_index()
    caption = (
        f"Study {grid}: percent of weights with reversal frequency {collect.OFTEN} at the end, by layer group; "
        f"mean ± standard deviation over {grid.seeds_in_words}. {_SCOPE[grid.reestimates]}"
    )
    write_table(grid.directory / "tables", "oscillation", data, shown, list(rows["runs"]), caption)


def _rows(data: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return model, bits and variant of each row."""
    return list(data[collect.KEYS].itertuples(index=False, name=None))


def _columns(name: str, numbers: Sequence[PaperNumber | None]) -> dict[str, list[float | str | None]]:
    """Return the published numbers as one column, and the marks that must be shown with them as another."""
    return {
        name: [None if each is None else each.value for each in numbers],
        "paper_mark": [None if each is None else each.mark or None for each in numbers],
    }


def _as_printed(numbers: Sequence[PaperNumber | None]) -> list[str]:
    return ["–" if each is None else each.shown for each in numbers]


def _has_remedies(grid: Grid) -> bool:
    remedies = [grid.params.variant(name).remedy for name in grid.quantized]
    return any(remedy is not None and remedy.name in ("dampening", "freezing") for remedy in remedies)


def _evaluated(grid: Grid) -> str:
    data = grid.data
    return f"on the {data.evaluate} images of {data.title}; the model after the last step is evaluated"


def _teacher_accuracy(grid: Grid) -> str:
    data = collect.spread(collect.metrics(grid.teachers), ["top1"], by=["model"])
    return ", ".join(
        f"{model} {number(mean, sd)} %"
        for model, mean, sd in data[["model", "top1_mean", "top1_sd"]].itertuples(index=False)
    )


def _nested(main: pd.DataFrame) -> dict[str, Any]:
    """Return the main table as ``{bits: {variant: {column: value}}}``, below the model's name if there are several.

    The deviation of a single seed is unknown and left out.
    """
    several = main["model"].nunique() > 1
    content: dict[str, Any] = {}
    for row in main.to_dict("records"):
        place = content.setdefault(row["model"], {}) if several else content
        values = {column: row[column] for column in _NESTED if pd.notna(row[column])}
        place.setdefault(row["bits"], {})[row["variant"]] = values
    return content
