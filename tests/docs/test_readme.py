"""The README shows the committed record, and nothing else."""

from pathlib import Path

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_the_table_is_the_one_of_the_record() -> None:
    record = Path("results/reference/digits/components/tables/main.md")
    shown = README.split(f"<!-- {record} -->\n")[1].split("<!-- end -->")[0]
    assert shown.strip() == (ROOT / record).read_text().split("\n\n")[0].strip()


def test_the_best_at_2_bits_are_the_rows_of_the_record() -> None:
    record = Path("results/reference/digits/components/tables/best.md")
    shown = README.split(f"<!-- {record} -->\n")[1].split("<!-- end -->")[0].strip().splitlines()
    recorded = (ROOT / record).read_text().split("\n\n")[0].splitlines()
    assert shown == recorded[:2] + [line for line in recorded if "| w2a2 " in line] and len(shown) == 8


def test_it_stays_within_four_screens() -> None:
    assert len(README.splitlines()) <= 140


def test_every_file_that_it_links_to_exists() -> None:
    links = {part.split(")")[0] for part in README.split("](")[1:]}
    assert len(links) > 10
    assert [
        link for link in links if not link.startswith("http") and not (ROOT / link.partition("#")[0]).exists()
    ] == []
