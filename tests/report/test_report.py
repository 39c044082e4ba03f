"""Tables: what they make of given metrics."""

from pathlib import Path

import pandas as pd
import pytest

from ofq.config import params
from ofq.config.grid import Grid
from ofq.errors import UserError
from ofq.report import collect
from ofq.report.parts.learning_rates import write_learning_rates
from ofq.report.parts.tables import write_tables
from ofq.report.render import markdown, number, signed, write_table
from ofq.runs.files import write_json, write_text
from ofq.runs.paths import Run
from tests.conftest import ROOT
from tests.report.conftest import Made


def test_a_number_shows_its_spread_or_says_that_it_has_none() -> None:
    assert number(93.361, 1.388) == "93.36 ± 1.39"
    assert number(93.361, float("nan")) == "93.36 (one seed)"
    assert number(float("nan"), float("nan")) == "–"
    assert signed(0.5, 0.1) == "+0.50 ± 0.10" and signed(-0.5, 0.1) == "-0.50 ± 0.10"


def test_spread_is_the_sample_standard_deviation_over_seeds() -> None:
    frame = pd.DataFrame(
        {"model": "m", "bits": "w2a2", "variant": ["a", "a", "b"], "run": ["r0", "r1", "r2"], "top1": [1.0, 3.0, 5.0]}
    )
    data = collect.spread(frame, ["top1"])
    assert list(data["n"]) == [2, 1] and list(data["top1_mean"]) == [2.0, 5.0]
    assert data["top1_sd"][0] == pytest.approx(2**0.5) and pd.isna(data["top1_sd"][1])
    assert list(data["runs"]) == ["r0 r1", "r2"]


def test_group_means_count_layers_by_their_weights() -> None:
    record = pd.DataFrame({"group": ["q", "q", "v"], "share": [1.0, 4.0, 2.0], "weights": [100, 200, 5]})
    data = collect.group_means(record, ["group"], ["share"])
    assert dict(zip(data["group"], data["share"], strict=True)) == {"q": 3.0, "v": 2.0}


@pytest.mark.parametrize(
    ("runs", "order"),
    [
        (["q k v fc", "q k v fc"], "q k v fc"),
        (["q k v fc", "qk v fc"], "q k qk v fc"),
        (["qk v fc", "q k v fc"], "q k qk v fc"),
        (["a b", "c d"], "a b c d"),
        (["a b c", "b a"], "a b c"),
        (["a b c", "x b y", "c z"], "a x b c y z"),
    ],
)
def test_groups_of_layers_stand_as_in_the_runs_whatever_their_order(runs: list[str], order: str) -> None:
    rows = [(place, group) for place, groups in enumerate(runs) for group in 2 * groups.split()]
    assert collect.layer_groups(pd.DataFrame(rows, columns=["run", "group"])) == order.split()


def test_the_four_files_of_a_table_hold_the_same(tmp_path: Path) -> None:
    frame = pd.DataFrame({"bits": ["w2a2"], "top-1 %": ["93.36 ± 1.39"]})
    write_table(
        tmp_path, "t", pd.DataFrame({"top1": [93.361234]}), frame, ["a/seed0 a/seed1 b/seed0"], "100 % of `it`_all."
    )
    assert (tmp_path / "t.csv").read_text() == "top1\n93.361234\n"
    text = (tmp_path / "t.md").read_text()
    assert text.split("|")[1:3] == [" bits   ", " top-1 %      "]
    assert "| w2a2   | 93.36 ± 1.39 |\n\n100 % of `it`_all.\n" in text
    latex = (tmp_path / "t.tex").read_text()
    assert r"w2a2 & 93.36 $\pm$ 1.39 \\" in latex and r"\caption{100 \% of it\_all.}" in latex
    page = (tmp_path / "t.html").read_text()
    assert page.startswith("<!doctype html>\n") and '<meta charset="utf-8"><title>t</title><style>' in page
    assert "<th>bits</th><th>top-1 %</th><th>runs</th>" in page
    assert "<td>93.36 ±&nbsp;1.39</td>" in page and '<td class="whole">w2a2</td>' in page
    assert "<td><details><summary>3 runs</summary>a/seed0,1; b/seed0</details></td>" in page
    assert "100 % of <code>it</code>_all." in page


def test_each_format_escapes_what_it_would_read_itself(tmp_path: Path) -> None:
    odd = "a|b_c & #1 <i> \\x $y$ {z} – ✓ Δ"
    for name in ("one", "two"):
        write_table(tmp_path / name, "t", pd.DataFrame({"x": [1]}), pd.DataFrame({odd: [odd]}), ["a/seed0"], odd)
    found = {kind: (tmp_path / "one" / f"t.{kind}").read_text() for kind in ("md", "tex", "html")}
    assert found == {kind: (tmp_path / "two" / f"t.{kind}").read_text() for kind in found}
    assert found["md"].count(r"a\|b_c") == 2 and found["md"].endswith(f"\n{odd}\n")
    escaped = r"a|b\_c \& \#1 $<$i$>$ \textbackslash x \$y\$ \{z\} -- $\checkmark$ $\Delta$"
    assert found["tex"].count(escaped) == 3 and f"{{{escaped}}}" in found["tex"]
    assert found["html"].count("a|b_c &amp; #1 &lt;i&gt; \\x") == 3


def test_long_cells_are_not_padded_where_this_is_asked_for() -> None:
    table = pd.DataFrame({"p": ["<0.001", "1"], "of": ["a<br><sub>b|c</sub>", "--"]})
    assert markdown(table, padded=False).splitlines() == [
        "| p | of |",
        "| --- | --- |",
        r"| <0.001 | a<br><sub>b\|c</sub> |",
        "| 1 | -- |",
    ]


def test_the_sweep_marks_the_rate_with_the_lowest_cross_entropy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = params.load(ROOT / "params.yaml")
    for run in Grid(loaded, "digits-lr").runs:
        rate = float(run.variant.rsplit("-lr", 1)[1])
        best = 8e-3 if run.variant.startswith("lsq-lr") else 4e-3
        write_json(run.files.metrics, {"top1": 90.0, "loss": 1 + abs(rate - best) + 0.001 * run.seed, "seed": run.seed})
    write_learning_rates(Grid(loaded, "digits-lr"))
    table = pd.read_csv("results/digits-lr/report/tables/learning_rate.csv")
    chosen = table[table["best"] & (table["bits"] == "w2a2")].set_index("variant")["lr"]
    assert dict(chosen) == {"lsq": 8e-3, "lsq-midrise": 4e-3, "statsq": 4e-3, "statsq-qkr": 4e-3}
    assert list(table[table["best"] & (table["bits"] == "all")]["lr"]) == [4e-3]
    assert Path("results/digits-lr/report/figures/learning_rate.png").stat().st_size > 10_000


def test_missing_metrics_say_how_to_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = params.load(ROOT / "params.yaml")
    with pytest.raises(UserError, match=r"metrics\.json does not exist; make it with: snakemake results/"):
        write_learning_rates(Grid(loaded, "digits-lr"))


def test_metrics_that_lack_a_number_are_one_line_and_no_mean_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run("digits", "vit_micro", "w2a2", "lsq", 0)
    for found, said in {
        '{"steps": 3}': "has no top1 and loss and reversals",
        '{"top": 90.0, "loss": 1}': "has no top1 and reversals",
        '{"top1": true, "loss": 1.0}': r"cannot be read \(top1: Input should be a valid number\)",
        '{"top1": "90", "loss": 1.0}': r"cannot be read \(top1: Input should be a valid number\)",
        '{"top1": 1e999, "loss": 1.0}': r"cannot be read \(top1: Input should be a finite number\)",
        "[]": r"cannot be read \(Input should be a valid dictionary\)",
    }.items():
        write_text(run.files.metrics, found)
        with pytest.raises(UserError, match=rf"metrics\.json {said}; delete it and run snakemake again"):
            collect.metrics([run], "reversals")


def test_a_study_that_lists_its_teacher_has_the_tables_of_one_that_does_not(made: Made) -> None:
    students = ["lsq", "statsq", "lsq-dampening"]
    written = []
    for variants in (students, ["teacher", *students]):
        grid = Grid(made(variants=variants, groups={}), "digits")
        write_tables(grid)
        written.append({path.name: path.read_bytes() for path in grid.directory.rglob("*") if path.is_file()})
    assert {"main.csv", "best.csv", "ablation.csv", "oscillation.csv", "main.json"} <= written[0].keys()
    assert written[0] == written[1]
