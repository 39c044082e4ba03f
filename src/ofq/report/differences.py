"""Differences paired by seed: their intervals, p after Holm's correction, and which best values they decide."""

from collections.abc import Iterable, Sequence

import pandas as pd

from ofq.report import collect
from ofq.report.claims.statistics import LEVEL, estimate, holm
from ofq.report.render import bold, interval, p_value

_PARTS = ("low", "high", "p")


def compared_by_seed(frame: pd.DataFrame, columns: Sequence[str], by: Sequence[str]) -> pd.DataFrame:
    """Return what :func:`ofq.report.collect.spread` does, and of each column of differences interval and p.

    The interval is Student's 95 % and not corrected; p is, by Holm, for the rows of the same model and bit width. They
    are missing where the spread is not known.

    Args:
        frame: a row for each seed; a difference that is missing is no comparison.
        columns: with differences that are paired by seed.
        by: columns that name a comparison, model and bits among them.
    """
    data = collect.spread(frame, columns, by=by)
    for column in columns:
        groups = frame.groupby(list(by), sort=False)[column]
        found = [estimate(values.dropna().tolist()) for _, values in groups]
        ends = [each.interval or (None, None) for each in found]
        ps = pd.Series([each.p for each in found], dtype=float)
        data[f"{column}_low"] = pd.Series([low for low, _ in ends], dtype=float)
        data[f"{column}_high"] = pd.Series([high for _, high in ends], dtype=float)
        data[f"{column}_p"] = ps.groupby([data[name] for name in collect.PLACE], sort=False).transform(corrected)
    runs = data.pop("runs")
    return data.assign(runs=runs)


def corrected(ps: pd.Series) -> pd.Series:
    """Return Holm's adjusted p of one family; what is not known stays missing."""
    adjusted = holm([None if pd.isna(p) else p for p in ps])
    return pd.Series(adjusted, index=ps.index, dtype=float)


def differences(data: pd.DataFrame, column: str) -> list[str]:
    """Write a column of :func:`compared_by_seed` with interval and p, such as ``+0.50 [-0.59, +1.59], p 0.069``."""
    return [
        _difference(mean, None if pd.isna(low) else (low, high), p)
        for mean, low, high, p in data[[f"{column}_mean", *(f"{column}_{part}" for part in _PARTS)]].to_numpy(float)
    ]


def _difference(mean: float, ends: tuple[float, float] | None, p: float) -> str:
    if pd.isna(mean):
        return "–"
    text = interval(mean, ends)
    return text if pd.isna(p) else f"{text}, p {p_value(p)}"


def how_tested(data: pd.DataFrame, columns: Sequence[str]) -> str:
    """Say for a caption what intervals and p are, and why some intervals exclude 0 where p does not decide."""
    known = [data[[f"{column}_{part}" for part in _PARTS]].to_numpy(float) for column in columns]
    rows = [row for each in known for row in each]
    undecided = sum(bool(low * high > 0 and p >= LEVEL) for low, high, p in rows)
    text = "In brackets the 95 % interval; p is corrected by Holm for all rows of the same model and width"
    if not undecided:
        return f"{text}, the intervals are not."
    return f"{text}, the intervals are not, which is why {undecided} of {len(rows)} exclude 0 where p does not decide."


def decided(frame: pd.DataFrame, column: str, *, lowest: bool = False) -> set[tuple[str, ...]]:
    """Return model, bits and variant of each best mean that is decided against every other at its model and width.

    That is, p of every difference to it, paired by seed and corrected by Holm, is below 0.05.

    Args:
        frame: a row for each run.
        column: what is compared.
        lowest: whether the lowest mean is best.
    """
    found: set[tuple[str, ...]] = set()
    for place, part in frame.groupby(collect.PLACE, sort=False):
        values = part.pivot(index="seed", columns="variant", values=column) * (-1 if lowest else 1)
        best = str(values.mean().idxmax())
        others = [estimate((values[name] - values[best]).dropna().tolist()) for name in values if name != best]
        if others and all(p is not None and p < LEVEL for p in holm([each.p for each in others])):
            found.add((*place, best))
    return found


def marked(data: pd.DataFrame, texts: Iterable[str], best: set[tuple[str, ...]]) -> list[str]:
    """Return the cells of a column, bold in the rows whose model, bits and variant are decided to be best."""
    rows = data[collect.KEYS].itertuples(index=False, name=None)
    return [bold(text) if row in best else text for row, text in zip(rows, texts, strict=True)]


def how_marked(*best: set[tuple[str, ...]]) -> str:
    """Say for a caption what is bold."""
    if not any(best):
        return "No cell is bold: no best is decided against every other at its model and width."
    return (
        "Bold: the best at its model and width, where every difference to it, paired by seed, has a corrected p < 0.05."
    )
