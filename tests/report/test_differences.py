"""Differences carry interval and p, a best cell is bold only where it is decided, and wide tables fit a window."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ofq.config.grid import Grid
from ofq.report import collect
from ofq.report.claims.statistics import holm
from ofq.report.differences import compared_by_seed, decided, differences, how_marked, how_tested, marked
from ofq.report.parts.tables import write_tables
from ofq.report.render import write_table
from ofq.runs.files import read_json, write_json
from ofq.runs.paths import Run
from tests.report.conftest import Made

CLEAR = {"a": [95.0, 95.1, 95.2, 95.1], "b": [93.0, 93.2, 93.1, 93.1], "c": [90.0, 90.4, 90.1, 90.2]}
OPEN = CLEAR | {"b": [95.1, 94.9, 95.0, 95.3]}


def frame(values: dict[str, list[float]], bits: str = "w2a2") -> pd.DataFrame:
    rows = [(name, seed, value) for name, each in values.items() for seed, value in enumerate(each)]
    table = pd.DataFrame(rows, columns=["variant", "seed", "top1"])
    return table.assign(model="m", bits=bits, run=table["variant"] + table["seed"].astype(str))


def test_interval_and_p_are_students_and_p_is_corrected_within_a_model_and_width() -> None:
    rng = np.random.default_rng(0)
    values = {name: (rng.standard_normal(5) + shift).tolist() for name, shift in (("a", 0.5), ("b", 1.0), ("c", 0.0))}
    both = pd.concat([frame(values), frame({"a": values["a"]}, "w4a4")])
    data = compared_by_seed(both, ["top1"], collect.KEYS)
    tests = {name: stats.ttest_1samp(each, 0) for name, each in values.items()}
    assert data["top1_p"].tolist() == pytest.approx([*holm([one.pvalue for one in tests.values()]), tests["a"].pvalue])
    assert data["top1_p"][0] != data["top1_p"][3], "the other width has one comparison, this one three"
    for name, row in zip(values, data.itertuples(), strict=False):
        assert (row.top1_low, row.top1_high) == pytest.approx(tuple(tests[name].confidence_interval()))
    assert list(data.columns)[-1] == "runs"
    text = differences(data, "top1")[1]
    assert re.fullmatch(r"[+-]\d\.\d+ \[[+-]\d\.\d+, [+-]\d\.\d+\], p \d\.\d{3}", text), text


def test_a_missing_difference_is_no_comparison_and_a_single_seed_has_no_spread() -> None:
    values = {"a": [1.0, 2.0, 4.0], "b": [np.nan] * 3}
    data = compared_by_seed(frame(values), ["top1"], collect.KEYS)
    assert data["top1_p"].tolist()[0] == pytest.approx(stats.ttest_1samp(values["a"], 0).pvalue)
    assert pd.isna(data["top1_p"][1]) and differences(data, "top1")[1] == "–"
    assert differences(compared_by_seed(frame({"a": [1.0]}), ["top1"], collect.KEYS), "top1") == [
        "+1.00 (spread not known)"
    ]


def test_the_caption_says_why_an_interval_excludes_0_where_p_does_not_decide() -> None:
    data = pd.DataFrame({"x_low": [0.1, 0.1, -1.0], "x_high": [2.0, 2.0, 1.0], "x_p": [0.06, 0.01, 1.0]})
    assert how_tested(data, ["x"]).endswith("which is why 1 of 3 exclude 0 where p does not decide.")
    assert how_tested(data[1:], ["x"]).endswith("the intervals are not.")


def test_a_best_is_marked_only_where_every_difference_to_it_is_decided() -> None:
    assert decided(frame(CLEAR), "top1") == {("m", "w2a2", "a")}
    assert decided(frame(CLEAR), "top1", lowest=True) == {("m", "w2a2", "c")}
    assert decided(frame(OPEN), "top1") == set()
    assert decided(frame({"a": CLEAR["a"]}), "top1") == set(), "nothing to be better than"
    assert decided(frame({name: each[:1] for name, each in CLEAR.items()}), "top1") == set(), "one seed"
    data = collect.spread(frame(CLEAR), ["top1"])
    assert marked(data, ["x", "y", "z"], {("m", "w2a2", "a")}) == ["**x**", "y", "z"]
    assert how_marked(set(), {("m", "w2a2", "a")}).startswith("Bold:") and how_marked(set()).startswith("No cell")


def test_a_decided_best_is_bold_in_all_readable_forms(made: Made) -> None:
    params = made(variants=["lsq", "statsq"], seeds=[0, 1, 2])
    for variant, top1 in (("lsq", 90.0), ("statsq", 95.0)):
        for seed in (0, 1, 2):
            path = Run("digits", "vit_micro", "w2a2", variant, seed).files.metrics
            write_json(path, read_json(path) | {"top1": top1 + 0.01 * seed * (variant == "lsq"), "loss": 0.1})
    write_tables(Grid(params, "digits"))
    tables = Path("results/digits/report/tables")
    assert "**95.00 ± 0.00**" in (tables / "main.md").read_text()
    assert "<strong>95.00 ±&nbsp;0.00</strong>" in (tables / "main.html").read_text()
    assert r"\textbf{95.00 $\pm$ 0.00}" in (tables / "main.tex").read_text()
    assert "**" not in (tables / "main.csv").read_text()
    assert all("**" not in line for line in (tables / "best.md").read_text().splitlines() if " lsq " in line)


def test_statsq_is_known_by_its_switch_whatever_its_name(made: Made) -> None:
    Path("own.py").write_text(
        "from ofq.quant.quantizers.statsq import StatsQuantizer\n\n\n"
        "class Mine(StatsQuantizer):\n"
        "    def __init__(self, bits: int, factor: float = 2.0) -> None:\n"
        "        super().__init__(bits, factor)\n"
    )
    params = made(variants=["lsq", "rms", "statsq", "mine"], more={"mine": {"weight": "own:Mine"}})
    write_tables(Grid(params, "digits"))
    table = pd.read_csv("results/digits/report/tables/ablation.csv").set_index("variant")
    assert dict(table["statsq"]) == {"lsq": False, "rms": False, "statsq": True, "mine": True}


def test_a_wide_table_can_wrap_to_a_window(tmp_path: Path) -> None:
    number, change = "97.05 ± 0.51", "-15.66 [-16.88, -14.44], p <0.001 (7 of 8)"
    shown = {"variant": ["lsq-midrise-identity-start0.5"]} | {f"c{i}": [number] for i in range(8)}
    shown |= {f"Δ {i}": [change] for i in range(4)}
    write_table(tmp_path, "t", pd.DataFrame({"x": [1]}), shown, ["a/seed0"], "")
    page = (tmp_path / "t.html").read_text()
    assert '<table class="wide">' in page
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)
    longest = [max(map(len, cell.replace("&nbsp;", "_").replace("&lt;", "<").split())) for cell in cells[:-1]]
    assert longest == [29, *[6] * 8, *[17] * 4], "numbers wrap before ±, an interval and p; names do not"
