"""The origin of a table's cells or a figure: runs, seeds, settings, digests, versions, MLflow ids."""

import html
import json
import re
from pathlib import Path

import pandas as pd
from PIL import Image

from ofq.errors import UserError, unknown
from ofq.report.collect import MADE_FROM, read_table
from ofq.report.render import shorten
from ofq.runs.files import read_json, reading
from ofq.runs.paths import REFERENCE, Run
from ofq.tracking.mirror import stamp


def explain(path: Path, bits: str | None = None, variant: str | None = None) -> str:
    """Return as text everything behind the cells of a table or behind a figure of the report.

    Args:
        path: CSV of a table, or PNG or SVG of a figure.
        bits: bit width such as ``w2a2``; None for every bit width.
        variant: name of a variant; None for every variant.

    Raises:
        UserError: the file is missing or not one of the report's, it has no such cell, or a run behind it is gone.
    """
    if path.suffix not in (".csv", ".png", ".svg"):
        raise UserError(f"{path} is no table or figure that names its runs; name the CSV, PNG or SVG beside it")
    rows = _table(path) if path.suffix == ".csv" else _figure(path)
    for column, value in (("bits", bits), ("variant", variant)):
        if value is not None:
            known = set(rows[column])
            rows = rows[rows[column] == value]
            if rows.empty:
                raise unknown(f"{column} in {path}:", value, known)
    cells = [rows.drop(columns="runs").to_string(index=False, na_rep="–")] if path.suffix == ".csv" else []
    names = dict.fromkeys(name for names in rows["runs"] for name in names.split())
    runs = [run for name in names if (run := Run.parse(name))]
    return "\n".join([str(path), *cells, "", *(_recorded(path) if path.is_relative_to(REFERENCE) else _current(runs))])


def _table(path: Path) -> pd.DataFrame:
    """Return the rows of a table with the names of the runs behind them."""
    table = read_table(path)
    if not {"bits", "variant", "runs"} <= set(table.columns):
        raise UserError(f"{path} does not name the runs of its rows; name a CSV of results/STUDY/report/tables")
    return table


def _figure(path: Path) -> pd.DataFrame:
    """Return a row for each run of a figure."""
    with reading(path, ours=False):
        if path.suffix == ".png":
            with Image.open(path) as image:
                text = str(image.info.get("Description", ""))
        else:
            text = html.unescape(path.read_text())
    match = re.search(rf"{re.escape(MADE_FROM)}((?: [^\s<]+/seed\d+)+)", text)
    if match is None:
        raise UserError(f"{path} does not name its runs; name a figure of results/STUDY/report/figures")
    rows = [(*name.split("/")[2:4], name) for name in match[1].split()]
    return pd.DataFrame(rows, columns=["bits", "variant", "runs"])


def _recorded(path: Path) -> list[str]:
    """Return what a committed record says about itself; the files of its runs are not kept."""
    file = REFERENCE / path.relative_to(REFERENCE).parts[0] / "record.json"
    record = pd.json_normalize(read_json(file))
    return [f"a committed record, whose runs are not kept; from {file}:", *_settings(record, [str(file)])]


def _current(runs: list[Run]) -> list[str]:
    """Describe each run by itself, then what the runs have in common and where they differ."""
    infos = [read_json(run.files.info) for run in runs]
    seeds = sorted({run.seed for run in runs})
    lines = [f"runs: {len(runs)}; seeds: {', '.join(map(str, seeds))}"]
    for run, info in zip(runs, infos, strict=True):
        metrics = {name: value for name, value in read_json(run.files.metrics).items() if name != "seed"}
        inputs = info["digests"]["inputs"]
        lines += [
            f"  {run}",
            f"    finished  {info['finished']}",
            f"    metrics   {', '.join(f'{name} {value:.6g}' for name, value in metrics.items())}",
            f"    code      {info['digests']['code']}",
            *(f"    input     {digest[:16]} {name}" for name, digest in inputs.items()),
            f"    MLflow    {_mlflow_id(run)}",
        ]
    names = [str(run) for run in runs]
    for title, key in (("parameters", "config"), ("versions", "versions"), ("machine", "machine")):
        table = pd.json_normalize([info[key] for info in infos])
        lines += ["", f"{title}:", *_settings(table.drop(columns="seed", errors="ignore"), names)]
    return lines


def _settings(table: pd.DataFrame, names: list[str]) -> list[str]:
    """Return one line for each column; if its rows differ, one for each value, with the names of its rows."""
    width = max(map(len, table.columns), default=0)
    lines = []
    for column in table.columns:
        rows: dict[str, list[str]] = {}
        for name, value in zip(names, table[column].tolist(), strict=True):
            text = value if isinstance(value, str) else json.dumps(value)
            rows.setdefault("–" if text == "NaN" else text, []).append(name)
        for text, matches in rows.items():
            lines.append(f"  {column:<{width}}  {text}{'' if len(rows) == 1 else '  in ' + shorten(matches)}")
    return lines


def _mlflow_id(run: Run) -> str:
    path = stamp(run.study)
    if not path.exists():
        return "not mirrored; do it with: python -m ofq track"
    mirrored = read_json(path)
    return f"{mirrored['runs'].get(str(run), 'not mirrored')} in {mirrored['store']}"
