"""Numbers that tables and figures show, as plain files for ``dvc metrics`` and ``dvc plots``."""

from functools import cache
from typing import Any

import pandas as pd

from ofq.config.grid import Grid
from ofq.config.resolve import resolve
from ofq.report import collect
from ofq.runs.paths import Run
from ofq.runs.published import read_metrics

_SHOWN = ["top1_mean", "top1_sd", "osc_share_mean", "osc_share_sd"]


def nested(main: pd.DataFrame) -> dict[str, Any]:
    """Return the main table as ``{bits: {variant: {column: value}}}``, below the model's name if there are several.

    The deviation of a single seed is unknown and left out.
    """
    several = main["model"].nunique() > 1
    content: dict[str, Any] = {}
    for row in main.to_dict("records"):
        place = content.setdefault(row["model"], {}) if several else content
        values = {column: row[column] for column in _SHOWN if pd.notna(row[column])}
        place.setdefault(row["bits"], {})[row["variant"]] = values
    return content


def over_training(grid: Grid, record: pd.DataFrame) -> pd.DataFrame:
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


def curves(data: pd.DataFrame) -> pd.DataFrame:
    """Return what ``dvc plots`` draws: columns step, panel (model and bits), variant, share."""
    return pd.DataFrame(
        {
            "step": data["step"],
            "panel": data["model"] + " " + data["bits"],
            "variant": data["variant"],
            "share": data["share_mean"],
        }
    )
