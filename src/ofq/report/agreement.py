"""Agreement of a study with its committed record: one verdict for each cell of the main table."""

from collections.abc import Set
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ofq.config.grid import Grid
from ofq.errors import UserError
from ofq.report import collect
from ofq.report.record import repeats
from ofq.report.render import write_table
from ofq.runs.paths import record_dir

QUANTITIES = {"top1": "top-1 %", "osc_share": "oscillating %", "reversals": "reversals a weight"}
FACTOR = 2.0  # standard errors of a difference that count as chance

AGREES, DIFFERS = "agrees", "differs"
ONE_SEED = "one seed: cannot say"
NOT_RECORDED = "not in the record"


def write_agreement(grid: Grid, main: pd.DataFrame) -> None:
    """Write the table ``agreement``: compare the main table with the record in ``results/reference``, if there is one.

    Args:
        grid: the grid whose report is written.
        main: the main table as in ``main.csv``, one row for each model, bit width and variant.

    Raises:
        UserError: the record is damaged or of another form.
    """
    path = record_dir(grid.directory) / "tables" / "main.csv"
    record = _recorded(path, grid) if path.exists() else main.iloc[:0]
    cells = compare(main, record, {str(run) for run in repeats(grid)})
    shown = main[collect.KEYS].copy()
    for name, title in QUANTITIES.items():
        shown[title] = [_cell(cell) for cell in cells[cells["quantity"] == name].to_dict("records")]
    if path.exists():
        counts = ", ".join(f'{count} "{text}"' for text, count in cells["verdict"].value_counts().items())
        caption = (
            f"Study {grid.study}: does each cell of the main table agree with the committed record, `{path}`? "
            f"Of {len(cells)} cells: {counts}. "
            "A cell shows this run's mean less that of the record and, in brackets, the largest difference that "
            f"counts as chance: {FACTOR:g} standard errors, {FACTOR:g}·sqrt(sd²/n + sd_record²/n_record). With three "
            "seeds on each side one cell in nine lies outside by chance alone. Equal seeds, settings, code and "
            "versions on the same processor give equal numbers: where the record says that it had these, no difference "
            "counts as chance, and agreement says that nothing changed, not that other seeds agree."
        )
    else:
        caption = (
            f"Study {grid.study}: there is no record to compare with, for `{path}` does not exist. "
            f"Make this run the record with `python -m ofq reference {grid.study}`."
        )
    write_table(grid.directory / "tables", "agreement", cells, shown, list(main["runs"]), caption)


def _recorded(path: Path, grid: Grid) -> pd.DataFrame:
    table = collect.read_table(path)
    numbers = ["n", *(f"{name}_{part}" for name in QUANTITIES for part in ("mean", "sd"))]
    lacking = [name for name in collect.KEYS if name not in table]
    lacking += [name for name in numbers if name not in table or not pd.api.types.is_numeric_dtype(table[name])]
    if lacking:
        mend = f"write it anew: python -m ofq reference {grid.study}"
        raise UserError(f"{path} has no column {', '.join(lacking)} as a main table has; {mend}")
    return table


def compare(main: pd.DataFrame, record: pd.DataFrame, repeated: Set[str] = frozenset()) -> pd.DataFrame:
    """Return one row for each cell of the main table: means, spreads, numbers of seeds, difference, limit and verdict.

        agrees  <=>  |mean - mean_record| <= 2 * sqrt(sd^2 / n + sd_record^2 / n_record)

    A single seed has no spread, so nothing can be said about it. Where the runs repeat the recorded ones the
    limit is 0.

    Args:
        main: main table of this run.
        record: main table of the record; without rows if there is none.
        repeated: names of the runs that can only give what the record has.
    """
    ours = pd.concat([_quantity(main, name).assign(runs=main["runs"]) for name in QUANTITIES], ignore_index=True)
    recorded = record.reindex(columns=[*record.columns.drop("runs", errors="ignore"), "runs"])
    theirs = pd.concat([_quantity(recorded, name).assign(runs=recorded["runs"]) for name in QUANTITIES])
    cells = ours.merge(theirs, on=[*collect.KEYS, "quantity"], how="left", suffixes=("", "_record"))
    cells["n_record"] = cells["n_record"].fillna(0).astype(int)
    cells["difference"] = cells["mean"] - cells["mean_record"]
    variance = cells["sd"] ** 2 / cells["n"] + cells["sd_record"] ** 2 / cells["n_record"]
    same = (cells["runs"] == cells["runs_record"]) & cells["runs"].map(lambda runs: repeated >= set(runs.split()))
    cells["limit"] = (FACTOR * np.sqrt(variance)).mask(same, 0.0)  # missing where a spread is missing
    cells["verdict"] = np.select(
        [cells["mean_record"].isna(), cells["limit"].isna(), cells["difference"].abs() <= cells["limit"]],
        [NOT_RECORDED, ONE_SEED, AGREES],
        DIFFERS,
    )
    return cells[[name for name in cells.columns if name not in ("runs", "runs_record")] + ["runs"]]


def _quantity(table: pd.DataFrame, name: str) -> pd.DataFrame:
    values = {part: table[f"{name}_{part}"].astype(float) for part in ("mean", "sd")}
    return table[[*collect.KEYS, "n"]].assign(quantity=name, **values)


def _cell(cell: dict[Any, Any]) -> str:
    if cell["verdict"] in (AGREES, DIFFERS):
        return f"{cell['verdict']}: {cell['difference']:+.2f} (±{cell['limit']:.2f})"
    return f"{cell['verdict']} ({cell['difference']:+.2f})" if cell["verdict"] == ONE_SEED else str(cell["verdict"])
