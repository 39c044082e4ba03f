"""Gather what a study's runs published into data frames."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ofq.config.grid import Grid
from ofq.errors import UserError
from ofq.oscillation.thresholds import SHARES
from ofq.runs.files import read_json, reading
from ofq.runs.paths import Run

MADE_FROM = "Made from the runs:"  # starts the description in the metadata of figures
OFTEN = f"> {SHARES['share']:g}"  # the reversal frequency of a weight that oscillates, as captions say it
KEYS = ["model", "bits", "variant"]


def coordinates(run: Run) -> dict[str, str]:
    """Return a run's name, model, bits and variant as columns of its rows."""
    return {"run": str(run), "model": run.model, "bits": run.bits, "variant": run.variant}


def metrics(runs: Sequence[Run]) -> pd.DataFrame:
    """Return one row for each run: its name, model, bits, variant, seed, and everything in its ``metrics.json``."""
    rows = []
    for run in runs:
        saved = read_json(run.files.metrics)
        if not isinstance(saved, dict) or not all(isinstance(saved.get(key), int | float) for key in ("top1", "loss")):
            raise UserError(f"{run.files.metrics} has no top1 and loss; delete it and run snakemake again")
        rows.append(coordinates(run) | saved)
    return pd.DataFrame(rows)


def records(runs: Sequence[Run], file: str) -> pd.DataFrame:
    """Return one Parquet record of every run, concatenated, with the coordinates of the runs.

    Args:
        runs: the runs whose record is read.
        file: ``oscillation``, ``weights``, ``annealing`` or ``noise``.

    Raises:
        UserError: a file is missing or damaged.
    """
    frames = [read_record(getattr(run.files, file)).assign(**coordinates(run), seed=run.seed) for run in runs]
    return pd.concat(frames, ignore_index=True)


def read_record(path: Path) -> pd.DataFrame:
    """Return the content of one Parquet record.

    Raises:
        UserError: the file is missing or damaged.
    """
    with reading(path):  # pyarrow's errors are ValueErrors
        return pd.read_parquet(path)


def only(data: pd.DataFrame, **values: str) -> pd.DataFrame:
    """Return the rows whose columns have the given values."""
    return data[np.logical_and.reduce([data[name] == value for name, value in values.items()])]


def last_steps(record: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each run's last step."""
    return record[record["step"] == record.groupby("run")["step"].transform("max")]


def group_means(record: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Return means over weights: each layer counts by its number of weights, one without a value not at all.

    A column that the record does not have, as an older one may not, is missing.
    """
    values, keys = record.reindex(columns=[*columns]), [record[name] for name in by]
    weights = values.notna().mul(record["weights"], axis=0)
    means = (
        values.mul(record["weights"], axis=0).groupby(keys, sort=False).sum() / weights.groupby(keys, sort=False).sum()
    )
    return means.assign(weights=record["weights"].groupby(keys, sort=False).sum()).reset_index()


def layer_groups(record: pd.DataFrame) -> list[str]:
    """Return the groups of layers in the order in which tables and figures show them, whatever the order of the runs.

    It is that of the run with the most groups. Those that only others have stand before the group that follows them
    there: q, k, v and qk, v give q, k, qk, v.

    Args:
        record: ``oscillation.parquet`` of some runs, each in the order of its layers.
    """
    of_runs = [list(groups.unique()) for _, groups in record.groupby("run", sort=False)["group"]]
    order: list[str] = []
    for groups in sorted(of_runs, key=len, reverse=True):
        place = len(order)
        for group in reversed(groups):
            if group in order:
                place = order.index(group)
            else:
                order.insert(place, group)
    return order


def spread(frame: pd.DataFrame, columns: Sequence[str], by: Sequence[str] = KEYS) -> pd.DataFrame:
    """Return number, mean and sample standard deviation over seeds, and the names of the runs behind them.

    The deviation of a single seed is missing.
    """
    grouped = frame.groupby(list(by), sort=False)
    parts: dict[str, pd.Series] = {"n": grouped.size()}
    for column in columns:
        parts[f"{column}_mean"] = grouped[column].mean()
        parts[f"{column}_sd"] = grouped[column].std(ddof=1)
    parts["runs"] = grouped["run"].agg(" ".join)
    return pd.DataFrame(parts).reset_index()


def in_order(data: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """Sort rows by the grid's order of models and bit widths; rows of one model and width keep their order."""
    places = [grid.places.index(key) for key in data[["model", "bits"]].itertuples(index=False, name=None)]
    return data.iloc[sorted(range(len(data)), key=places.__getitem__)].reset_index(drop=True)


def read_table(path: Path) -> pd.DataFrame:
    """Read a table that the report wrote; the column ``runs`` names the runs behind each row if they are known.

    Raises:
        UserError: the file is missing, damaged, or not CSV.
    """
    with reading(path, kind=" as CSV", ours=False):  # pandas' errors are ValueErrors
        names = path.with_suffix(".runs.json")
        table = pd.read_csv(path)
        return table.assign(runs=[" ".join(row) for row in read_json(names)]) if names.exists() else table
