"""The page of deviations shows the measured effects of the record, and every switch that there is."""

import re

import pandas as pd

from ofq.config.settings import Fidelity
from tests.conftest import ROOT

PAGE = (ROOT / "docs/deviations.md").read_text()
RECORD = pd.read_csv(ROOT / "results/reference/digits/fidelity/tables/comparison.csv").set_index(["variant", "against"])
ROWS = {
    "cga_qk": ("statsq-qkr-cga-free-qk", "statsq-qkr-cga"),
    "teacher_mode": ("statsq-qkr-teacher-train", "statsq-qkr"),
    "dead_biases": ("statsq-qkr-dead-biases", "statsq-qkr"),
    "all, before annealing": ("statsq-qkr-released", "statsq-qkr"),
    "all, after annealing": ("statsq-qkr-released-cga", "statsq-qkr-cga"),
}


def effect(pair: tuple[str, str], column: str) -> str:
    return f"{RECORD.loc[pair, f'{column}_mean']:+.2f} ± {RECORD.loc[pair, f'{column}_sd']:.2f}"


def row(name: str) -> list[str]:
    (line,) = [line for line in PAGE.splitlines() if re.match(rf"\| `?{name}`? \|", line)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_switch_has_a_row_with_its_default() -> None:
    for name, field in Fidelity.model_fields.items():
        assert row(name)[3] == f"`{str(field.default).lower()}`"


def test_effects_are_those_of_the_record() -> None:
    for name, pair in ROWS.items():
        assert row(name)[-2:] == [effect(pair, "top1"), effect(pair, "osc_share")], name
    random = [("statsq-random", "statsq"), ("statsq-qkr-random", "statsq-qkr")]
    for cell, column in zip(row("attention_init")[-2:], ("top1", "osc_share"), strict=True):
        assert cell == "StatsQ {}; QKR {}".format(*(effect(pair, column) for pair in random))
    gains = [("statsq-qkr", "statsq"), ("statsq-qkr-random", "statsq-random")]
    text = " ".join(PAGE.split())
    assert (
        "changes top-1 by {} points; with random starts on both sides by {}.".format(
            *(effect(pair, "top1") for pair in gains)
        )
        in text
    )
