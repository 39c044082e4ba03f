"""Gather what a study's runs published into data frames."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ofq.config.grid import Grid
from ofq.errors import UserError, missing
from ofq.runs.files import read_json
from ofq.runs.paths import Run

MADE_FROM = "Made from the runs:"  # begins the description that figures carry in their metadata
KEYS = ["model", "bits", "variant"]


def metrics(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run: its name, model, bits, variant, seed, and everything in its ``metrics.json``."""
    rows = []
    for run in runs:
        coordinates = {"run": str(run), "model": run.model, "bits": run.bits, "variant": run.variant}
        found = read_json(run.files.metrics)
        if not isinstance(found, dict) or not all(isinstance(found.get(key), int | float) for key in ("top1", "loss")):
            raise UserError(f"{run.files.metrics} has no top1 and loss; delete it and run snakemake again")
        rows.append(coordinates | found)
    return pd.DataFrame(rows)


def records(runs: Sequence[Run], file: str) -> pd.DataFrame:
    """A Parquet record of every run, below each other, with the coordinates.

    Args:
        runs: whose.
        file: ``oscillation``, ``weights``, ``annealing`` or ``noise``.

    Raises:
        UserError: no runs, or a file is missing or damaged.
    """
    _some(runs, f"{file}.parquet")
    frames = []
    for run in runs:
        path = getattr(run.files, file)
        try:
            frame = pd.read_parquet(path)
        except FileNotFoundError:
            raise missing(path) from None
        except (ValueError, OSError) as error:  # pyarrow's errors are ValueErrors
            raise UserError(f"{path} cannot be read ({error}); delete it and run snakemake again") from None
        frames.append(frame.assign(run=str(run), model=run.model, bits=run.bits, variant=run.variant, seed=run.seed))
    return pd.concat(frames, ignore_index=True)


def probes(runs: Sequence[Run]) -> list[tuple[Run, dict[str, Any]]]:
    """Every run with its ``probe.json``."""
    _some(runs, "probe.json")
    return [(run, read_json(run.files.probe)) for run in runs]


def _some(runs: Sequence[Run], file: str) -> None:
    if not runs:
        raise UserError(f"no run of this grid can have a {file}: it has annealed variants only")


def group_means(record: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Mean over weights: layers count by their number of weights."""
    weighted = record[[*columns]].mul(record["weights"], axis=0).assign(weights=record["weights"])
    sums = weighted.groupby([record[name] for name in by], sort=False).sum()
    return sums[[*columns]].div(sums["weights"], axis=0).assign(weights=sums["weights"]).reset_index()


def spread(frame: pd.DataFrame, columns: Sequence[str], by: Sequence[str] = KEYS) -> pd.DataFrame:
    """Number, mean and sample standard deviation over seeds, and the runs behind them.

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
    """The rows in the order of the grid's models and bit widths; within those as they were."""
    places = [grid.places.index(key) for key in data[["model", "bits"]].itertuples(index=False, name=None)]
    return data.iloc[sorted(range(len(data)), key=places.__getitem__)].reset_index(drop=True)


def read_table(path: Path) -> pd.DataFrame:
    """A table that the report wrote, with the runs behind each row in the column ``runs`` where they are known.

    Raises:
        UserError: missing, damaged, or no CSV.
    """
    try:
        names = path.with_suffix(".runs.json")
        table = pd.read_csv(path)
        return table.assign(runs=[" ".join(row) for row in read_json(names)]) if names.exists() else table
    except FileNotFoundError:
        raise missing(path) from None
    except (ValueError, OSError) as error:  # pandas' errors are ValueErrors
        raise UserError(f"{path} cannot be read as CSV ({str(error).splitlines()[0]})") from None
