"""The table ``comparison``: chosen pairs of variants, compared seed by seed."""

import pandas as pd

from ofq.config.grid import Grid
from ofq.report import collect
from ofq.report.differences import compared_by_seed, differences, how_tested
from ofq.report.render import write_table

METRICS = ["top1", "loss", "osc_share", "reversals"]


def write_comparison(grid: Grid) -> None:
    """Write ``tables/comparison.*``: one row for each model, bit width and pair, the first minus the second.

    Differences are taken between the runs of one seed, which share the teacher and the order of the images.
    Reversals of an annealed run are those of the annealing alone, so they are compared only if both runs are annealed
    or neither is.

    Args:
        grid: the grid whose report is written.

    Raises:
        UserError: a run is missing.
    """
    frame = collect.metrics(grid.students, *METRICS)
    data = compared_by_seed(_differences(grid, frame), METRICS, by=[*collect.PLACE, "variant", "against"])
    data = collect.in_order(data, grid)
    shown = {
        **data[[*collect.KEYS, "against"]],
        "seeds": data["n"],
        "Δ top-1, points": differences(data, "top1"),
        "Δ cross-entropy, nats": differences(data, "loss"),
        "Δ oscillating, points": differences(data, "osc_share"),
        "Δ reversals a weight": differences(data, "reversals"),
    }
    caption = (
        f"Study {grid}: pairs of variants, the first less the second, paired by seed; mean over {grid.seeds_in_words}, "
        f"on the {grid.data.evaluate} images of {grid.data.title}. {how_tested(data, METRICS)} "
        f"Oscillating: share of weights whose reversal frequency is {collect.OFTEN} at the end. Reversals of annealed "
        "variants are counted over the annealing alone: there is a dash where only one of a pair is annealed."
    )
    write_table(grid.directory / "tables", "comparison", data, shown, list(data["runs"]), caption)


def _differences(grid: Grid, frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each model, bit width, seed and pair."""
    parts = []
    for first, second in dict.fromkeys(map(tuple, grid.compare)):
        left, right = (frame[frame["variant"] == name] for name in (first, second))
        both = left.merge(right, on=[*collect.PLACE, "seed"], suffixes=("", "_other"))
        part = both[[*collect.PLACE, "seed"]].assign(
            variant=first, against=second, run=both["run"] + " " + both["run_other"]
        )
        part[METRICS] = both[METRICS] - both[[f"{name}_other" for name in METRICS]].to_numpy()
        if (grid.params.variant(first).parent is None) != (grid.params.variant(second).parent is None):
            part["reversals"] = float("nan")
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
