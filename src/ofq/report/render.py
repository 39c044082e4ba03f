"""One frame, four files: CSV with full numbers; Markdown, LaTeX and HTML as people read them."""

import html
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from ofq.runs.files import write_json, write_text

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem;color:#222;background:#fff}"
    "table{border-collapse:collapse}p{max-width:60rem}"
    "th,td{padding:.25rem .75rem;text-align:left;white-space:nowrap}"
    "th{border-bottom:2px solid #222}td{border-bottom:1px solid #ddd}"
    "td:last-child{color:#777;font-size:85%}"
)


def number(mean: float, sd: float, digits: int = 2) -> str:
    """``93.36 ± 1.39``; a single seed, whose spread is unknown, says so; a missing value is a dash."""
    if pd.isna(mean):
        return "–"
    return f"{mean:.{digits}f} (one seed)" if pd.isna(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def signed(mean: float, sd: float, digits: int = 2) -> str:
    """As :func:`number`, for a difference: always with its sign."""
    text = number(mean, sd, digits)
    return text if text.startswith(("-", "–")) else f"+{text}"


def cells(
    data: pd.DataFrame, name: str, *, digits: int = 2, form: Callable[[float, float, int], str] = number
) -> list[str]:
    """The columns ``name_mean`` and ``name_sd`` as text, row by row."""
    return [form(*pair, digits) for pair in zip(data[f"{name}_mean"], data[f"{name}_sd"], strict=True)]


def shorten(runs: Sequence[str]) -> str:
    """The runs ``a/seed0``, ``a/seed1`` and ``b/seed0`` as ``a/seed0,1; b/seed0``."""
    seeds: dict[str, list[str]] = {}
    for name in runs:
        base, seed = name.rsplit("/seed", 1)
        seeds.setdefault(base, []).append(seed)
    return "; ".join(f"{base}/seed{','.join(numbers)}" for base, numbers in seeds.items())


def write_table(
    directory: Path, name: str, data: pd.DataFrame, shown: pd.DataFrame, runs: Sequence[str], caption: str
) -> None:
    """Write ``name.csv`` from ``data``, and ``name.md``, ``.tex`` and ``.html`` from ``shown`` with a caption.

    Args:
        directory: of the four files.
        name: without a suffix.
        data: machine-readable, full precision; a column ``runs``, the names of the runs behind each row, goes to
            ``name.runs.json``, one list a row.
        shown: the same for readers, all columns text.
        runs: behind each row of ``shown``, names separated by spaces; they stand in the HTML.
        caption: some sentences; Markdown.
    """
    write_text(directory / f"{name}.csv", data.drop(columns="runs", errors="ignore").to_csv(index=False))
    if "runs" in data:
        write_json(directory / f"{name}.runs.json", [names.split() for names in data["runs"]])
    write_text(directory / f"{name}.md", f"{_markdown(shown)}\n{caption}\n")
    write_text(directory / f"{name}.tex", _latex(shown, caption))
    write_text(directory / f"{name}.html", _html(name, shown, runs, caption))


def _markdown(shown: pd.DataFrame) -> str:
    rows = [list(map(str, shown.columns)), *shown.astype(str).to_numpy().tolist()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines) + "\n"


def _html(name: str, shown: pd.DataFrame, runs: Sequence[str], caption: str) -> str:
    """A page of its own, which `snakemake --report` takes in whole."""

    def row(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    head = row("th", [*shown.columns, "runs"])
    body = [
        row("td", [*cells, shorten(names.split())])
        for cells, names in zip(shown.astype(str).to_numpy().tolist(), runs, strict=True)
    ]
    text = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(caption))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{_STYLE}</style></head>\n"
        f"<body><table><thead>\n{head}\n</thead><tbody>\n" + "\n".join(body) + "\n</tbody></table>\n"
        f"<p>{text}</p></body></html>\n"
    )


def _latex(shown: pd.DataFrame, caption: str) -> str:
    def escape(text: str) -> str:
        for plain, latex in (("\\", r"\textbackslash{}"), ("%", r"\%"), ("_", r"\_"), ("&", r"\&"), ("#", r"\#")):
            text = text.replace(plain, latex)
        for plain, latex in (("±", r"$\pm$"), ("–", "--"), ("✓", r"$\checkmark$"), (">", "$>$"), ("Δ", r"$\Delta$")):
            text = text.replace(plain, latex)
        return text.replace("`", "")

    escaped = shown.astype(str).map(escape).rename(columns=escape)
    text: str = escaped.style.hide(axis="index").to_latex(
        hrules=True, caption=escape(caption), position="t", position_float="centering"
    )
    return text
