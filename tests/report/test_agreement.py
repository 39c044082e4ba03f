"""What the report says of a run beside its committed record."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ofq.config import params
from ofq.config.grid import Grid
from ofq.errors import UserError
from ofq.report.agreement import AGREES, DIFFERS, NOT_RECORDED, ONE_SEED, QUANTITIES, compare, write_agreement
from tests.conftest import ROOT

GRID = Grid(params.load(ROOT / "params.yaml"), "digits")


def table(mean: float, sd: float, n: int = 3, variant: str = "statsq") -> pd.DataFrame:
    values = {f"{name}_{part}": value for name in QUANTITIES for part, value in (("mean", mean), ("sd", sd))}
    runs = " ".join(f"digits/vit_micro/w2a2/{variant}/seed{seed}" for seed in range(n))
    return pd.DataFrame([{"model": "vit_micro", "bits": "w2a2", "variant": variant, "n": n, **values, "runs": runs}])


def verdicts(main: pd.DataFrame, record: pd.DataFrame) -> set[str]:
    return set(compare(main, record)["verdict"])


def test_two_means_agree_within_two_standard_errors_of_their_difference() -> None:
    record = table(90.0, 1.0)
    limit = 2 * np.sqrt(0.5**2 / 3 + 1.0**2 / 3)
    assert verdicts(table(90.0 + limit - 1e-9, 0.5), record) == {AGREES}
    assert verdicts(table(90.0 + limit + 1e-9, 0.5), record) == {DIFFERS}
    assert verdicts(table(90.0 - limit - 1e-9, 0.5), record) == {DIFFERS}
    assert list(compare(table(91.0, 0.5), record)["limit"]) == pytest.approx([limit] * 3)


def test_equal_runs_agree_even_without_any_spread() -> None:
    assert verdicts(table(90.0, 0.0), table(90.0, 0.0)) == {AGREES}
    assert verdicts(table(90.1, 0.0), table(90.0, 0.0)) == {DIFFERS}


@pytest.mark.parametrize(("n", "n_record"), [(1, 3), (3, 1), (1, 1)])
def test_nothing_is_claimed_of_a_single_seed(n: int, n_record: int) -> None:
    main, record = (table(90.0, np.nan if count == 1 else 1.0, count) for count in (n, n_record))
    assert verdicts(main, record) == {ONE_SEED}


def test_a_cell_that_the_record_lacks_says_so() -> None:
    both = pd.concat([table(90.0, 1.0), table(80.0, 1.0, variant="new")])
    cells = compare(both, table(90.0, 1.0, variant="statsq"))
    assert set(cells[cells["variant"] == "new"]["verdict"]) == {NOT_RECORDED}
    assert set(cells[cells["variant"] == "statsq"]["verdict"]) == {AGREES}


def test_the_table_names_the_record_the_counts_and_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record = Path("results/reference/digits/tables/main.csv")
    record.parent.mkdir(parents=True)
    table(90.0, 1.0).to_csv(record, index=False)
    write_agreement(GRID, table(95.0, 1.0).assign(reversals_mean=90.5))
    folder = Path("results/digits/report/tables")
    text = (folder / "agreement.md").read_text()
    assert "differs: +5.00 (±1.63)" in text and "agrees: +0.50 (±1.63)" in text
    assert str(record) in text and 'Of 3 cells: 2 "differs", 1 "agrees".' in text
    assert "digits/vit_micro/w2a2/statsq/seed0,1,2" in (folder / "agreement.html").read_text()


def test_without_a_record_the_table_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_agreement(GRID, table(90.0, 1.0))
    assert "`python -m ofq reference digits`" in Path("results/digits/report/tables/agreement.md").read_text()


@pytest.mark.parametrize("damage", ["column", "text"])
def test_a_record_of_another_form_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("results/reference/digits/tables/main.csv")
    path.parent.mkdir(parents=True)
    record = table(90.0, 1.0)
    (record.drop(columns="top1_sd") if damage == "column" else record.assign(top1_sd="x")).to_csv(path, index=False)
    with pytest.raises(UserError, match=rf"^{path} has no column top1_sd .*python -m ofq reference digits$"):
        write_agreement(GRID, table(90.0, 1.0))
