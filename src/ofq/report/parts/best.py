"""The table ``best``: how far each variant lies below the most accurate one, and how sure that is."""

import numpy as np
import pandas as pd

from ofq.config.grid import Grid, grids
from ofq.report import collect
from ofq.report.claims.statistics import LEVEL, estimate, holm
from ofq.report.differences import decided, how_marked, how_tested, marked
from ofq.report.render import cells, interval, p_value, write_table


def write_best(grid: Grid, frame: pd.DataFrame) -> None:
    """Write ``tables/best.*``: one row for each model, bit width and variant, the most accurate first.

    The difference to the variant with the highest mean accuracy is paired by seed; its interval is Student's, and p is
    corrected by Holm for the comparisons at its model and bit width.

    Args:
        grid: the grid whose report is written.
        frame: metrics of its runs.
    """
    parts = [_compared(part) for _, part in frame.groupby(collect.PLACE, sort=False)]
    data, best = collect.in_order(pd.concat(parts, ignore_index=True), grid), decided(frame, "top1")
    shown = {
        **data[collect.KEYS],
        "seeds": data["n"],
        "top-1 %": marked(data, cells(data, "top1"), best),
        "Δ to the best, 95 % interval": data["shown"],
        "p, corrected": data["p_adjusted"].map(p_value),
    }
    caption = (
        f"Study {grid.study}: which variant is most accurate, and how sure that is, over {grid.seeds_in_words}, on the "
        f"{grid.data.evaluate} images of {grid.data.title}. {' '.join(map(_sentence, parts))} "
        "The best is the one with the highest mean; as the same runs chose it, its lead is rather too large. "
        f"Differences to it are paired by seed. {_how(data)} {how_marked(best)}{_more_seeds(grid)}"
    )
    data = data.drop(columns="shown")
    write_table(grid.directory / "tables", "best", data, shown, list(data["runs"]), caption)


def _more_seeds(grid: Grid) -> str:
    """Return where the same variants have more seeds, which may not bear out what a few decide."""
    found = [
        f"{each.group} ({len(each.seeds)})"
        for each in grids(grid.params, grid.study)
        if set(each.variants) >= set(grid.variants) and len(each.seeds) > len(grid.seeds)
    ]
    return f" Groups with these variants and more seeds: {', '.join(found)}." if found else ""


def _how(data: pd.DataFrame) -> str:
    named = {"low": "top1_low", "high": "top1_high", "p_adjusted": "top1_p"}
    return how_tested(data[~data["best"]].rename(columns=named), ["top1"])


def _compared(part: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one model and bit width, from the highest mean accuracy to the lowest."""
    data = collect.spread(part, ["top1"]).sort_values("top1_mean", ascending=False, kind="stable", ignore_index=True)
    accuracy = part.pivot(index="seed", columns="variant", values="top1")
    best = data["variant"][0]
    others = [estimate((accuracy[name] - accuracy[best]).dropna().tolist()) for name in data["variant"][1:]]
    intervals = [each.interval or (None, None) for each in others]
    return data.assign(
        best=[True] + [False] * len(others),
        difference=np.array([None, *(each.effect for each in others)], float),
        low=np.array([None, *(low for low, _ in intervals)], float),
        high=np.array([None, *(high for _, high in intervals)], float),
        p_adjusted=np.array([None, *holm([each.p for each in others])], float),
        shown=["best", *("–" if each.effect is None else interval(each.effect, each.interval) for each in others)],
    )


def _sentence(data: pd.DataFrame) -> str:
    """Say of one model and bit width which variant is best, and of how many that is decided."""
    worse = int((data["p_adjusted"] < LEVEL).sum())
    known = f"shown to be worse: {worse or 'none'} of the {len(data) - 1} others"
    first = data.iloc[0]
    return f"{first['model']}, {first['bits'].upper()}: {first['variant']} has the highest mean; {known}."
