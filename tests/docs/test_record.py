"""Each committed record shows one set of numbers in all its files, and the README shows those."""

import json
import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from ofq.report.artefacts import ARTEFACTS
from tests.conftest import ROOT

RECORDS = sorted(path.parent for path in (ROOT / "results/reference").glob("*/record.json"))
TABLES = sorted((ROOT / "results/reference").glob("**/tables/main.csv"))
CLAIMS = sorted((ROOT / "results/reference").glob("*/claims.json"))
README = (ROOT / "README.md").read_text()


def name(path: Path) -> str:
    return "/".join(path.relative_to(ROOT / "results/reference").parts[:-2])


@pytest.mark.parametrize("table", TABLES, ids=name)
def test_the_readable_table_has_the_numbers_of_the_full_one(table: Path) -> None:
    rows = pd.read_csv(table)
    runs = json.loads(table.with_suffix(".runs.json").read_text())
    assert [len(names) for names in runs] == list(rows["n"])
    lines = [line for line in table.with_suffix(".md").read_text().splitlines() if line.startswith("| ")][1:]
    shown = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines if not line.startswith("| -")]
    expected = [
        [row.model, row.bits, row.variant, str(row.n), f"{row.top1_mean:.2f} ± {row.top1_sd:.2f}"]
        for row in rows.itertuples()
    ]
    assert [cells[:5] for cells in shown] == expected


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name)
def test_the_note_names_the_seeds_and_groups_of_the_record(record: Path) -> None:
    note = json.loads((record / "record.json").read_text())
    folders = {None: record, **{group: record / group for group in note.get("groups", {})}}
    seeds = {None: note["seeds"], **note.get("groups", {})}
    tables = [(group, table) for group, folder in folders.items() for table in folder.glob("tables/*.runs.json")]
    assert {group for group, _ in tables} == set(folders)
    for group, table in tables:
        found = {int(run.rsplit("/seed", 1)[1]) for runs in json.loads(table.read_text()) for run in runs}
        # Sizes do not depend on the seed, so one is exported.
        assert found == ({0} if table.name.startswith("sizes") else set(seeds[group])), table


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.parent.name)
def test_the_page_of_claims_has_the_verdicts_of_its_data(path: Path) -> None:
    counts = Counter(claim["verdict"] for claim in json.loads(path.read_text()))
    page = path.with_suffix(".md").read_text()
    told = ", ".join(
        f"{counts[verdict]} {verdict}" for verdict in ("supported", "contradicted", "undecided", "untested")
    )
    assert f"Of {sum(counts.values())} claims: {told}." in page
    assert Counter(re.findall(r"\*\*(\w+)\*\* on ", page)) == counts


def test_the_readme_counts_the_verdicts_of_the_record() -> None:
    claims = json.loads((ROOT / "results/reference/digits/claims.json").read_text())
    counts = Counter(claim["verdict"] for claim in claims)
    ours = sum(claim["source"].startswith("ours") for claim in claims)
    words = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    text = " ".join(README.split())
    assert (
        f"Of {len(claims)} claims, {len(claims) - ours} of the two papers and {words[ours]} of ours, "
        f"{counts['supported']} are supported on digits, {counts['contradicted']} contradicted and "
        f"{counts['undecided']} undecided"
    ) in text.replace("*", "")
    caption = (ROOT / "results/reference/digits/components/tables/main.md").read_text()
    (teacher,) = re.findall(r"vit_micro ([\d.]+ ± [\d.]+ %) top-1", caption)
    assert f"full precision: {teacher}" in text


def test_the_readme_names_parts_that_a_report_has() -> None:
    listed = re.findall(r"`(?:[\w-]+/)?((?:tables|figures)/\w+)`", README.split("| in the paper |")[1].split("\n\n")[0])
    made = {name.split(".")[0] for artefact in ARTEFACTS for name in artefact.makes}
    assert len(listed) > 9 and set(listed) <= made
