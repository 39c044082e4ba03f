"""The origin of a table's cells or a figure: runs, seeds, settings, digests, versions, MLflow ids."""

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from ofq.errors import UserError, unknown
from ofq.report.collect import MADE_FROM, MARKED, mark, marks, read_table
from ofq.report.render import shorten
from ofq.runs.files import read_json, reading
from ofq.runs.paths import REFERENCE, Run, record_note
from ofq.runs.published import Info, problems, read_info, read_metrics
from ofq.tracking.mirror import is_current, read_stamp

_NEEDED = ("finished", "config", "digests", "versions", "machine")


def explain(path: Path, bits: str | None = None, variant: str | None = None) -> str:
    """Return as text everything behind the cells of a table or behind a figure of the report, and what is stale in it.

    Args:
        path: CSV of a table, or PNG or SVG of a figure.
        bits: bit width such as ``w2a2``; None for every bit width.
        variant: name of a variant; None for every variant.

    Raises:
        UserError: the file is missing or not one of the report's, it has no such cell, or a file of a run behind it is
            gone or was changed since it was published.
    """
    text, stale = trace(path, bits, variant)
    return "\n".join([text, *([""] if stale else []), *(f"stale: {each}" for each in stale)])


def trace(path: Path, bits: str | None = None, variant: str | None = None) -> tuple[str, list[str]]:
    """Return what :func:`explain` does as two parts: the origin, and a line for each thing that is stale."""
    if path.suffix not in (".csv", ".png", ".svg"):
        raise UserError(f"{path} is no table or figure that names its runs; name the CSV, PNG or SVG beside it")
    rows = _table(path) if path.suffix == ".csv" else _figure(path)
    made_from = rows.attrs
    for column, value in (("bits", bits), ("variant", variant)):
        if value is not None:
            known = set(rows[column])
            rows = rows[rows[column] == value]
            if rows.empty:
                raise unknown(f"{column} in {path}:", value, known)
    cells = [rows.drop(columns="runs").to_string(index=False, na_rep="–")] if path.suffix == ".csv" else []
    names = dict.fromkeys(name for names in rows["runs"] for name in names.split())
    runs = [run for name in names if (run := Run.parse(name))]
    recorded = path.is_relative_to(REFERENCE)
    origin = _recorded(path) if recorded else _current(runs)
    stale = [] if recorded else [*_replaced(path, runs, made_from), *_mirrored_before(runs)]
    return "\n".join([str(path), *cells, "", *origin]), stale


def _table(path: Path) -> pd.DataFrame:
    """Return the rows of a table with the names of the runs behind them."""
    table = read_table(path)
    if not {"bits", "variant", "runs"} <= set(table.columns):
        raise UserError(f"{path} does not name the runs of its rows; name a CSV of results/STUDY/report/tables")
    return table


def _figure(path: Path) -> pd.DataFrame:
    """Return a row for each run of a figure."""
    with reading(path, mend=""):
        if path.suffix == ".png":
            with Image.open(path) as image:
                text = f"{image.info.get('Description')} {image.info.get('Identifier')}"
        else:
            text = html.unescape(path.read_text())
    match = re.search(rf"{re.escape(MADE_FROM)}((?: [^\s<]+/seed\d+)+)", text)
    if match is None:
        raise UserError(f"{path} does not name its runs; name a figure of results/STUDY/report/figures")
    rows = [(*name.split("/")[2:4], name) for name in match[1].split()]
    frame = pd.DataFrame(rows, columns=["bits", "variant", "runs"])
    if marked := re.search(rf"{re.escape(MARKED)} (\w+)", text):
        frame.attrs = {"all": marked[1], "now": mark(list(frame["runs"]))}
    return frame


def _recorded(path: Path) -> list[str]:
    """Return what a committed record says about itself; the files of its runs are not kept."""
    study = path.relative_to(REFERENCE).parts[0]
    file = record_note(study)
    record = pd.json_normalize(read_json(file, dict[str, Any], mend=f"write it anew: python -m ofq reference {study}"))
    return [f"a committed record, whose runs are not kept; from {file}:", *_settings(record, [str(file)])]


def _current(runs: list[Run]) -> list[str]:
    """Describe each run by itself, then what the runs have in common and where they differ."""
    infos = [read_info(run.files.info, *_NEEDED) for run in runs]
    seeds = sorted({run.seed for run in runs})
    lines = [f"runs: {len(runs)}; seeds: {', '.join(map(str, seeds))}"]
    for run, info in zip(runs, infos, strict=True):
        metrics = {name: value for name, value in read_metrics(run.files.metrics, "seed").items() if name != "seed"}
        if wrong := problems(run.files.root, large=False):
            raise wrong[0]
        inputs = info["digests"]["inputs"]
        lines += [
            f"  {run}",
            f"    finished  {info['finished']}",
            f"    metrics   {', '.join(f'{name} {value:.6g}' for name, value in metrics.items())}",
            f"    files     {'not verified: run.json has no digests of them' if wrong is None else 'as published'}",
            f"    code      {info['digests']['code']}",
            f"    commit    {info['git']}{_changes(info)}"
            if "git" in info
            else "    commit    unknown: git did not know the project",
            *(f"    input     {digest[:16]} {name}" for name, digest in inputs.items()),
            f"    MLflow    {_mlflow_id(run)}",
        ]
    names = [str(run) for run in runs]
    common = {
        "parameters": [info["config"] for info in infos],
        "versions": [info["versions"] for info in infos],
        "machine": [info["machine"] for info in infos],
    }
    for title, entries in common.items():
        table = pd.json_normalize(entries)
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
    stamp = read_stamp(run.study)
    if stamp is None:
        return "not mirrored; do it with: python -m ofq track"
    return f"{stamp['runs'].get(str(run), 'not mirrored')} in {stamp['store']}"


def _changes(info: Info) -> str:
    if "dirty" not in info:
        return ""
    return f", with changes in {', '.join(info.get('changed', []))}" if info["dirty"] else ""


def _replaced(path: Path, runs: list[Run], marked: Mapping[Any, str]) -> list[str]:
    """Say of which runs a table or figure shows earlier results: by the marks in it, without them by its age."""
    mend = f"make it anew: snakemake {path}"
    if "all" in marked:
        return [] if marked["all"] == marked["now"] else [f"{path} shows earlier results of its runs; {mend}"]
    age = path.stat().st_mtime
    earlier = [
        name
        for run, (name, mark) in zip(runs, marks(map(str, runs)).items(), strict=True)
        if (mark != marked[name] if marked.get(name) else run.files.metrics.stat().st_mtime > age)
    ]
    return [f"{path} is older than the results of {shorten(earlier)}; {mend}"] if earlier else []


def _mirrored_before(runs: list[Run]) -> list[str]:
    """Say of which runs MLflow has an earlier attempt."""
    earlier = [str(run) for run in runs if (stamp := read_stamp(run.study)) and not is_current(stamp, run)]
    mend = "python -m ofq track"
    return [f"the MLflow id is of another attempt of {shorten(earlier)}; mirror this one: {mend}"] if earlier else []
