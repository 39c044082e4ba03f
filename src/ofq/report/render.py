"""One frame, three files: CSV with full numbers, Markdown and LaTeX as people read them."""

from pathlib import Path

import pandas as pd

from ofq.files import write_text


def number(mean: float, sd: float, digits: int = 2) -> str:
    """``93.36 ± 1.39``; a single seed, whose spread is unknown, says so; a missing value is a dash."""
    if pd.isna(mean):
        return "–"
    return f"{mean:.{digits}f} (one seed)" if pd.isna(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def signed(mean: float, sd: float, digits: int = 2) -> str:
    """As :func:`number`, for a difference: always with its sign."""
    text = number(mean, sd, digits)
    return text if text.startswith(("-", "–")) else f"+{text}"


def write_table(directory: Path, name: str, data: pd.DataFrame, shown: pd.DataFrame, caption: str) -> None:
    """Write ``name.csv`` from ``data``, and ``name.md`` and ``name.tex`` from ``shown`` with a caption below.

    Args:
        directory: of the three files.
        name: without a suffix.
        data: machine-readable, full precision.
        shown: the same for readers, all columns text.
        caption: some sentences; Markdown.
    """
    write_text(directory / f"{name}.csv", data.to_csv(index=False))
    write_text(directory / f"{name}.md", f"{_markdown(shown)}\n{caption}\n")
    write_text(directory / f"{name}.tex", _latex(shown, caption))


def _markdown(shown: pd.DataFrame) -> str:
    rows = [list(map(str, shown.columns)), *shown.astype(str).to_numpy().tolist()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines) + "\n"


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
