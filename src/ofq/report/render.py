"""Write a frame as CSV with full numbers, and as Markdown, LaTeX and HTML for readers."""

import html
import re
from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from pathlib import Path
from typing import Any

import pandas as pd

from ofq.report.collect import marks
from ofq.runs.files import write_json, write_text

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:1rem;color:#222;background:#fff}"
    "table{border-collapse:collapse;font-size:13px;line-height:1.35}p{max-width:60rem}"
    "th,td{padding:.25rem .35rem;text-align:left;vertical-align:top}.whole{white-space:nowrap}.wide{font-size:12px}"
    "th{border-bottom:2px solid #222}td{border-bottom:1px solid #ddd}"
    "td:last-child{color:#777;overflow-wrap:anywhere;min-width:4.5rem}"
)
_WIDE = 12  # columns; more have smaller letters
_BOLD = re.compile(r"\*\*(.+?)\*\*")
_CELL = re.compile(r"<td>([^<]*)</td>")
_LATEX = str.maketrans(
    {"±": r"$\pm$", "–": "--", "✓": r"$\checkmark$", "<": "$<$", ">": "$>$", "Δ": r"$\Delta$", "`": ""}
)


def number(mean: float, sd: float, digits: int = 2) -> str:
    """Write mean and spread as ``93.36 ± 1.39``, the mean of a single seed with a note, a missing value as a dash."""
    if pd.isna(mean):
        return "–"
    return f"{mean:.{digits}f} (one seed)" if pd.isna(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def signed(mean: float, sd: float, digits: int = 2) -> str:
    """Write a difference as :func:`number` does, always with its sign."""
    text = number(mean, sd, digits)
    return text if text.startswith(("-", "–")) else f"+{text}"


def interval(effect: float, ends: tuple[float, float] | None) -> str:
    """Write an effect with its interval, such as ``+2.15 [+1.92, +2.38]``; None is an interval that is not known."""
    numbers = [effect, *(ends or ())]
    # As many decimals as the largest of them needs to show three digits.
    largest = max(abs(number) for number in numbers)
    digits = 2 if largest >= 0.995 or largest == 0 else 3 if largest >= 0.0995 else 4
    shown = [f"{round(number, digits) + 0.0:+.{digits}f}" for number in numbers]  # no -0.00
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if ends else f"{shown[0]} (spread not known)"


def bold(text: str) -> str:
    """Mark a cell for the three readable forms of a table."""
    return f"**{text}**"


def p_value(p: float | None) -> str:
    """Write p with three decimals, one that is not known as a dash."""
    if p is None or pd.isna(p):
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def cells(
    data: pd.DataFrame, name: str, *, digits: int = 2, form: Callable[[float, float, int], str] = number
) -> list[str]:
    """Write the columns ``name_mean`` and ``name_sd`` as text, row by row."""
    return [form(*pair, digits) for pair in zip(data[f"{name}_mean"], data[f"{name}_sd"], strict=True)]


def shorten(runs: Sequence[str]) -> str:
    """Write the runs ``a/seed0``, ``a/seed1`` and ``b/seed0`` as ``a/seed0,1; b/seed0``."""
    seeds: dict[str, list[str]] = {}
    for name in runs:
        base, seed = name.rsplit("/seed", 1)
        seeds.setdefault(base, []).append(seed)
    return "; ".join(f"{base}/seed{','.join(numbers)}" for base, numbers in seeds.items())


def write_table(
    directory: Path, name: str, data: pd.DataFrame, shown: Mapping[str, Any], runs: Sequence[str], caption: str
) -> None:
    """Write ``name.csv`` from ``data``, and ``name.md``, ``.tex`` and ``.html`` from ``shown`` with a caption.

    Args:
        directory: of the four files.
        name: without a suffix.
        data: machine-readable, full precision; a column ``runs``, the names of the runs behind each row, goes to
            ``name.runs.json``, one object a row, each with its mark.
        shown: the same for readers, by the titles of the columns.
        runs: behind each row of ``shown``, names separated by spaces; they stand in the HTML.
        caption: some sentences; Markdown.

    Raises:
        UserError: no space, or no permission to write.
    """
    write_text(directory / f"{name}.csv", data.drop(columns="runs", errors="ignore").to_csv(index=False))
    if "runs" in data:
        write_json(directory / f"{name}.runs.json", [marks(names.split()) for names in data["runs"]])
    table = pd.DataFrame(shown).astype(str)
    write_text(directory / f"{name}.md", f"{markdown(table)}\n\n{caption}\n")
    write_text(directory / f"{name}.tex", _latex(table, caption))
    write_text(directory / f"{name}.html", _html(name, table, runs, caption))


def markdown(table: pd.DataFrame, *, padded: bool = True) -> str:
    """Write a table as Markdown, with a backslash before a pipe in a cell.

    Args:
        table: all columns text.
        padded: make the cells of a column equally wide; not for long cells.
    """
    escape = methodcaller("replace", "|", r"\|")
    text: str = (
        table.map(escape)
        .rename(columns=escape)
        .to_markdown(index=False, tablefmt="github", disable_numparse=True, stralign="left" if padded else None)
    )
    return text if padded else re.sub(r"(?<=\|)-+(?=\|)", " --- ", text)


def _html(name: str, shown: pd.DataFrame, runs: Sequence[str], caption: str) -> str:
    """Write a page of its own, which ``snakemake --report`` takes in whole; the runs of a row unfold.

    The widest table fits a window of 1,280 pixels, as numbers wrap before ``±``, an interval and p.
    """
    table = shown.assign(runs="\ue000")
    body = table.to_markdown(index=False, tablefmt="html", disable_numparse=True, stralign=None)
    body = _BOLD.sub(r"<strong>\1</strong>", _CELL.sub(_cell, body))
    if table.shape[1] > _WIDE:
        body = body.replace("<table>", '<table class="wide">', 1)
    for names in runs:
        body = body.replace("\ue000", _folded(names.split()), 1)
    text = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(caption))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{_STYLE}</style></head>\n<body>{body}\n<p>{text}</p></body></html>\n"
    )


def _cell(match: re.Match[str]) -> str:
    text = match[1].strip()
    if "±" not in text and "[" not in text:
        return f'<td class="whole">{text}</td>' if text != "\ue000" else f"<td>{text}</td>"
    return f"<td>{text.replace('± ', '±&nbsp;').replace(', ', ',&nbsp;').replace(',&nbsp;p ', ', p&nbsp;')}</td>"


def _folded(runs: Sequence[str]) -> str:
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    return f"<details><summary>{count}</summary>{html.escape(shorten(runs))}</details>"


def _latex(shown: pd.DataFrame, caption: str) -> str:
    """Write a table environment with rules, which needs the packages booktabs and amssymb."""
    escaped = pd.DataFrame([caption]).style.format(escape="latex").hide(axis="index").hide(axis="columns").to_string()
    styler = shown.style.format(escape="latex").format_index(escape="latex", axis="columns").hide(axis="index")
    text: str = styler.to_latex(hrules=True, caption=escaped.strip(), position="t", position_float="centering")
    return _BOLD.sub(r"\\textbf{\1}", text.translate(_LATEX))
