"""Published numbers beside ours: which, how sure, and that tables can be computed with."""

from pathlib import Path

import pandas as pd
import pytest
from pandas.api.types import is_numeric_dtype

from ofq.config.grid import Grid
from ofq.report.paper import gain, top1
from ofq.report.parts.tables import write_tables
from tests.report.conftest import Made

TABLES = Path("results/digits/report/tables")
OFQ = "statsq-qkr-cga"


@pytest.mark.parametrize("model", ["deit_tiny", "deit_small", "swin_tiny"])
def test_the_implied_baseline_and_the_stated_gain_give_the_published_number(model: str) -> None:
    stated = {"deit_tiny": 9.88, "deit_small": 7.72, "swin_tiny": 4.64}[model]
    method, baseline = top1(model, "w2a2", OFQ), top1(model, "w2a2", "lsq")
    assert method is not None and baseline is not None
    assert method.value - baseline.value == pytest.approx(stated)
    assert (method.mark, baseline.mark) == ("", "implied")
    assert baseline.shown == f"{baseline.value:.2f} (implied)" and method.shown == f"{method.value:.2f}"


def test_gains_are_marked_and_keep_the_digits_that_were_published() -> None:
    shown = {bits: each.shown for bits in ("w2a2", "w3a3", "w4a4") if (each := gain("deit_small", bits, "statsq"))}
    assert shown == {"w2a2": "+6.3 (second-hand)", "w3a3": "+0.8 (second-hand)", "w4a4": "+1.0 (second-hand)"}
    both = gain("deit_small", "w2a2", OFQ), top1("deit_small", "w2a2", "lsq")
    assert both[0] is not None and both[0].value == 7.72 and both[1] is not None and both[1].value == 68.0


@pytest.mark.parametrize(("model", "bits", "variant"), [(None, "w2a2", "lsq"), ("deit_tiny", "w3a3", "lsq")])
def test_what_was_not_published_has_no_number(model: str | None, bits: str, variant: str) -> None:
    assert top1(model, bits, variant) is None and gain(model, bits, variant) is None


def test_tables_show_marks_and_keep_their_numbers_apart(made: Made) -> None:
    write_tables(Grid(made(variants=["lsq", "statsq", OFQ]), "digits"))
    main, ablation = (pd.read_csv(TABLES / f"{name}.csv").set_index("variant") for name in ("main", "ablation"))
    assert is_numeric_dtype(main["paper_top1"]) and is_numeric_dtype(ablation["paper_gain"])
    assert main.loc["lsq", "paper_top1"] == 68.0 and main.loc["lsq", "paper_mark"] == "implied"
    assert main.loc[OFQ, "paper_top1"] == 75.72 and pd.isna(main.loc[OFQ, "paper_mark"])
    assert ablation.loc["statsq", "paper_gain"] == 6.3 and pd.isna(ablation.loc["lsq", "paper_gain"])
    assert "| 68.00 (implied) " in (TABLES / "main.md").read_text()
    assert "+7.72 (second-hand) |" in (TABLES / "ablation.md").read_text()


def test_sources_are_named_where_numbers_are_and_nowhere_else(made: Made) -> None:
    write_tables(Grid(made(variants=["lsq-midrise", "statsq-qkr"]), "digits"))
    captions = [(TABLES / f"{name}.md").read_text() for name in ("main", "ablation")]
    assert not any(word in caption for caption in captions for word in ("implied", "second-hand", "Nagel"))
    write_tables(Grid(made(variants=["lsq", "lsq-dampening"]), "digits"))
    assert "MobileNetV2 on ImageNet" in (TABLES / "ablation.md").read_text()
