"""Gather what a study's runs published into data frames."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from typing_extensions import TypedDict

from ofq.config.grid import Grid
from ofq.errors import UserError
from ofq.oscillation.thresholds import SHARES
from ofq.runs.files import read_json, reading
from ofq.runs.paths import Run, data_dir
from ofq.runs.provenance import file_digest
from ofq.runs.published import digest_of, read_frame, read_metrics

MADE_FROM = "Made from the runs:"  # starts the description in the metadata of figures
MARKED = "results sha256"  # in the metadata of figures: goes on with one mark of all their runs
OFTEN = f"> {SHARES['share']:g}"  # the reversal frequency of a weight that oscillates, as captions say it
PLACE = ["model", "bits"]
KEYS = [*PLACE, "variant"]
# What every reader of a record needs, and what its tables and figures show beside that.
_COLUMNS = {
    "oscillation": ["step", "group", "weights"],
    "weights": ["bin_left", "weights"],
    "annealing": ["step", "layer", "scale"],
    "noise": ["where", "top1", "train_loss"],
}
_SHOWN = {
    "oscillation": ["share", "share_high", "reversals"],
    "weights": [],
    "annealing": ["free", "weights"],
    "noise": ["range", "injected", "loss"],
}


class _Stored(TypedDict):
    images: int


class _Files(TypedDict):
    eval: _Stored


class _Manifest(TypedDict):
    files: _Files


def images(grid: Grid) -> int:
    """Return how many images a grid's runs are evaluated on, from the manifest of its study's data.

    Raises:
        UserError: the manifest is missing or damaged.
    """
    path = data_dir(grid.study) / "manifest.json"
    manifest: _Manifest = read_json(path, _Manifest, mend=f"delete it and make it again with: snakemake {path}")
    return manifest["files"]["eval"]["images"]


def one_image(grid: Grid) -> str:
    """Say what one image is worth: ``one of 597 test images is 0.17 points``."""
    count = images(grid)
    return f"one of {count:,} {grid.data.evaluate} images is {100 / count:.2g} points"


def coordinates(run: Run) -> dict[str, str]:
    """Return a run's name, model, bits and variant as columns of its rows."""
    return {"run": str(run), "model": run.model, "bits": run.bits, "variant": run.variant}


def metrics(runs: Sequence[Run], *further: str) -> pd.DataFrame:
    """Return one row for each run: its name, model, bits, variant, seed, and everything in its ``metrics.json``.

    Args:
        runs: the runs whose metrics are read.
        further: what must stand there beside accuracy and loss.

    Raises:
        UserError: a file is missing, damaged, lacks one of these, or was changed since it was published.
    """
    return pd.DataFrame(coordinates(run) | read_metrics(run.files.metrics, "top1", "loss", *further) for run in runs)


def records(runs: Sequence[Run], file: str, *further: str) -> pd.DataFrame:
    """Return one Parquet record of every run, concatenated, with the coordinates of the runs.

    Args:
        runs: the runs whose record is read.
        file: ``oscillation``, ``weights``, ``annealing`` or ``noise``.
        further: columns that it must have beside those that tables and figures of every study show.

    Raises:
        UserError: a file is missing or damaged, or lacks a column.
    """
    paths = [getattr(run.files, file) for run in runs]
    frames = [read_record(path, *_SHOWN[file], *further) for path in paths]
    named = [frame.assign(**coordinates(run), seed=run.seed) for run, frame in zip(runs, frames, strict=True)]
    return pd.concat(named, ignore_index=True)


def read_record(path: Path, *further: str) -> pd.DataFrame:
    """Return the content of one Parquet record.

    Args:
        path: the file.
        further: columns that it must have beside those that every reader needs.

    Raises:
        UserError: the file is missing, damaged, empty, lacks a column, or was changed since it was published.
    """
    return read_frame(path, [*_COLUMNS[path.stem], *further])


def marks(names: Iterable[str]) -> dict[str, str]:
    """Return by the names of runs what tells their results from those of another attempt; empty where there are none.

    It is the beginning of the sha256 of ``metrics.json``.
    """
    paths = {name: run.files.metrics if (run := Run.parse(name)) else None for name in names}
    return {name: file_digest(path)[:16] if path and path.exists() else "" for name, path in paths.items()}


def mark(names: Sequence[str]) -> str:
    """Return one mark of all the runs of a figure."""
    return digest_of(" ".join(marks(names).values()))[:16]


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
    places = [grid.places.index(key) for key in data[PLACE].itertuples(index=False, name=None)]
    return data.iloc[sorted(range(len(data)), key=places.__getitem__)].reset_index(drop=True)


def read_table(path: Path) -> pd.DataFrame:
    """Read a table that the report wrote; the column ``runs`` names the runs behind each row if they are known.

    Its ``attrs`` are the :func:`marks` that these had when it was written, none in an older table.

    Raises:
        UserError: the file is missing, damaged, or not CSV.
    """
    with reading(path, kind=" as CSV", mend=""):  # pandas' errors are ValueErrors
        table = pd.read_csv(path)
    names = path.with_suffix(".runs.json")
    if not names.exists():
        return table
    rows = read_json(names, list[list[str] | dict[str, str]], mend=f"delete it and {path}, and run snakemake again")
    if len(rows) != len(table):
        raise UserError(f"{names} names the runs of {len(rows)} rows, and {path} has {len(table)}; delete both")
    table.attrs = {name: mark for row in rows if isinstance(row, dict) for name, mark in row.items()}
    return table.assign(runs=[" ".join(row) for row in rows])
