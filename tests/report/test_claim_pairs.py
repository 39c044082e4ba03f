"""Which runs a claim is tested on, and how they are paired."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ofq.config.grid import Grid
from ofq.report.claims.pairs import Pairs, pair
from ofq.report.claims.quantities import Records
from ofq.report.claims.terms import Claim
from ofq.runs.paths import Run
from tests.report.claim_runs import claim, finish, finish_all, params, run, write_parquet


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def found(planned: list[Run] | None = None, models: tuple[str, ...] = ("vit",), **entries: Any) -> Pairs:
    runs = Grid(params(), "plain").runs if planned is None else planned
    return pair(Claim.model_validate(claim(**entries)), runs, models, Records())


def values(pairs: Pairs) -> list[float]:
    return list(pairs.differences.values())


def test_differences_are_paired_by_seed_and_a_seed_counts_once_over_all_widths() -> None:
    finish_all("a", {"w2a2": [10.0, 20.0, 30.0], "w3a3": [50.0, 50.0, 50.0]})
    finish_all("b", {"w2a2": [9.0, 18.0, 27.0], "w3a3": [49.0, 48.0, 51.0]})
    pairs = found()
    assert pairs.differences == {0: 1.0, 1: 2.0, 2: 1.0} and pairs.bits == ["w2a2", "w3a3"]
    assert pairs.parts == {("vit", "w2a2"): [1.0, 2.0, 3.0], ("vit", "w3a3"): [1.0, 2.0, -1.0]}
    assert len(pairs.runs) == 12 and run("a", 0) in pairs.runs
    assert values(found(bits=["w2a2"])) == [1.0, 2.0, 3.0]
    assert found(bits=["w2a2"]).runs == [run(name, seed) for seed in range(3) for name in "ab"]


def test_only_seeds_with_every_run_count() -> None:
    finish_all("a", {"w2a2": [10.0, 20.0, 30.0], "w3a3": [50.0, 50.0]})
    finish_all("b", {"w2a2": [9.0, 18.0], "w3a3": [49.0, 49.0, 49.0]})
    pairs = found()
    assert values(pairs) == [1.0, 1.5] and {one.seed for one in pairs.runs} == {0, 1}


def test_runs_that_the_study_does_not_plan_do_not_count() -> None:
    finish_all("a", {"w2a2": [1.0] * 4, "w3a3": [1.0] * 4})
    finish_all("b", {"w2a2": [0.0] * 4, "w3a3": [0.0] * 4})
    finish_all("d", {"w2a2": [0.0] * 4})
    assert len(found().differences) == 3
    assert found(against={"variant": "d"}) == Pairs({}, {}, [], [])
    assert found(planned=[]) == Pairs({}, {}, [], [])


def test_a_claim_about_widths_is_tested_on_all_of_them_or_not_at_all() -> None:
    for name, value in (("a", 2.0), ("b", 1.0)):
        finish_all(name, {"w2a2": [value] * 3, "w3a3": [value] * 3})
    assert len(found(bits=["w2a2", "w3a3"]).differences) == 3
    assert values(found(bits=["w2a2", "w4a4"])) == []


def test_without_named_widths_a_claim_is_tested_where_the_study_plans_its_runs() -> None:
    sweep = [run("d", seed) for seed in range(5)]
    planned = [*Grid(params(), "plain").runs, *sweep, *(run("a", seed) for seed in range(5))]
    for seed in range(5):
        finish(run("d", seed), top1=1.0)
        finish(run("a", seed), top1=2.0)
    pairs = found(planned=planned, against={"variant": "d"})
    assert pairs.bits == ["w2a2"] and values(pairs) == [1.0] * 5


def test_two_widths_of_one_variant() -> None:
    finish_all("a", {"w2a2": [10.0, 20.0, 30.0], "w3a3": [50.0, 50.0, 50.0]})
    pairs = found(of={"variant": "a", "bits": "w2a2"}, against={"bits": "w3a3"})
    assert values(pairs) == [-40.0, -30.0, -20.0] and pairs.bits == ["w2a2", "w3a3"]


def test_a_gain_against_a_gain() -> None:
    for name, value in (("a", 10.0), ("b", 7.0), ("c", 5.0)):
        finish_all(name, {"w2a2": [value, value + 1, value + 2], "w3a3": [value] * 3})
    pairs = found(of={"variant": "a", "over": "b"}, against={"variant": "b", "over": "c"})
    assert values(pairs) == [1.0] * 3 and {one.variant for one in pairs.runs} == {"a", "b", "c"}


def test_against_a_number_and_against_the_teacher_of_each_seed() -> None:
    finish_all("a", {"w2a2": [10.0, 20.0, 30.0], "w3a3": [10.0, 20.0, 30.0]})
    assert values(found(against={"value": 5})) == [5.0, 15.0, 25.0]
    for seed in (0, 2):
        finish(run("a", seed).teacher, top1=9.0)
    pairs = found(against={"teacher": True}, bits=["w2a2"])
    assert values(pairs) == [1.0, 21.0]
    assert pairs.runs == [one for seed in (0, 2) for one in (run("a", seed), run("a", seed).teacher)]


def finish_widths(variant: str, bits: str, runs: list[tuple[float, float, float]]) -> None:
    """By seed: width over the run, width at the end, reversals; a percent for each reversal oscillates at the end."""
    for seed, (mean, end, reversals) in enumerate(runs):
        one = run(variant, seed, bits)
        finish(one, reversals=reversals, osc_share=reversals, top1=90.0)
        rows = [{"step": 0, "group": "q", "weights": 1, "step_width": 2 * mean - end}]
        write_parquet(one, "oscillation.parquet", [*rows, rows[0] | {"step": 9, "step_width": end}])


def test_a_curve_is_read_at_the_own_width_of_each_run_in_its_seed() -> None:
    for bits in ("w2a2", "w3a3"):
        finish_widths("b", bits, [(1.0, 1.0, 5.0), (1.0, 1.0, 6.0), (1.0, 1.0, 5.0)])
        finish_widths("c", bits, [(3.0, 3.0, 1.0), (3.0, 3.0, 4.0), (3.0, 3.0, 1.0)])
        finish_widths("a", bits, [(2.0, 2.5, 4.0), (1.5, 1.0, 6.0), (2.0, 2.0, 3.0)])
    against = {"curve": ["b", "c"]}
    pairs = found(measure="reversals", against=against)  # at the width over the run: 3, 5.5 and 3
    assert values(pairs) == [1.0, 0.5, 0.0] and pairs.outside == []
    assert {one.variant for one in pairs.runs} == {"a", "b", "c"} and len(pairs.runs) == 18
    assert values(found(measure="osc_share", against=against)) == [2.0, 0.0, 0.0]  # at the end: 2, 6 and 3
    assert values(found(measure="reversals", relative=True, against=against, bits=["w2a2"])) == pytest.approx([100 / 3, 100 / 11, 0.0])  # fmt: skip
    assert values(found(measure="step_width_end", against={"variant": "b"})) == [1.5, 0.0, 1.0]


def test_a_run_outside_the_curve_is_left_out_with_its_seed_and_counted() -> None:
    for bits in ("w2a2", "w3a3"):
        for name, width in (("b", 1.0), ("c", 3.0)):
            finish_widths(name, bits, [(width, width, 4.0 - width)] * 3)
        finish_widths("a", bits, [(2.0, 2.0, 3.0), (3.1 if bits == "w3a3" else 2.0, 2.0, 3.0), (0.9, 2.0, 3.0)])
    pairs = found(measure="reversals", against={"curve": ["b", "c"]})
    assert pairs.differences == {0: 1.0} and pairs.lacking == ""
    assert pairs.outside == [run("a", 1, "w3a3"), run("a", 2), run("a", 2, "w3a3")]
    none = found(measure="reversals", against={"curve": ["b", "c"]}, planned=[run(name, 2) for name in "abc"])  # fmt: skip
    assert none.lacking == "no run's step lies within the widths of the curve" and none.outside == [run("a", 2)]


def test_without_recorded_widths_there_is_no_curve() -> None:
    for name in "abc":
        finish_widths(name, "w2a2", [(1.0, 1.0, 1.0)] * 3)
        finish_widths(name, "w3a3", [(1.0, 1.0, 1.0)] * 3)
    write_parquet(run("b", 0), "oscillation.parquet", [{"step": 9, "group": "q", "weights": 1}])
    pairs = found(measure="reversals", against={"curve": ["b", "c"]})
    assert list(pairs.differences) == [1, 2] and pairs.outside == []


def test_relative_effects_are_percent_of_the_other_side_and_nothing_is_relative_to_zero() -> None:
    finish_all("a", {"w2a2": [12.0, 5.0, 1.0]})
    finish_all("b", {"w2a2": [10.0, 10.0, 0.0]})
    assert values(found(bits=["w2a2"], relative=True)) == pytest.approx([20.0, -50.0])


def test_models_of_the_groups_count_only_where_no_model_of_the_study_has_the_variants() -> None:
    planned = [run(name, seed, model=model) for model, names in (("vit", "ab"), ("other", "abd")) for name in names for seed in range(2)]  # fmt: skip
    for one in planned:
        finish(one, top1={"a": 3.0, "b": 2.0, "d": 1.0}[one.variant] + (10 if (one.model, one.variant) == ("other", "a") else 0))  # fmt: skip
    assert values(found(planned=planned)) == [1.0, 1.0]
    assert values(found(planned=planned, against={"variant": "d"})) == [12.0, 12.0]
    assert values(found(planned=planned, models=("vit", "other"))) == [6.0, 6.0]


def test_a_claim_about_layers_that_a_run_does_not_have_is_not_tested_and_says_so() -> None:
    rows = {"a": ["q", "k"], "b": ["conv"]}
    for seed in range(3):
        for name, groups in rows.items():
            finish(run(name, seed), osc_share=1.0)
            layers = [{"step": 1, "group": group, "weights": 10, "share": 1.0, "reversals": 1.0} for group in groups]
            write_parquet(run(name, seed), "oscillation.parquet", layers)
    of = {"variant": "a", "layers": ["q"]}
    assert found(measure="osc_share", bits=["w2a2"], of=of, against={"layers": ["k"]}).differences == dict.fromkeys(
        range(3), 0.0
    )
    lacking = found(measure="osc_share", bits=["w2a2"], of=of)
    assert lacking.differences == {} and lacking.runs == []
    assert lacking.lacking == f"unknown layers in {run('b', 0).files.oscillation}: 'q'; known: conv"


VALUES = st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(VALUES, VALUES, st.floats(-1e3, 1e3))
def test_swapping_the_sides_flips_the_sign_and_shifting_all_runs_alike_changes_nothing(
    a: list[float], b: list[float], shift: float
) -> None:
    def differences(of: str, against: str, moved: float) -> list[float]:
        for name, top1 in (("a", a), ("b", b)):
            finish_all(name, {"w2a2": [v + moved for v in top1[:3]], "w3a3": [v + moved for v in top1[3:]]})
        return values(found(of={"variant": of}, against={"variant": against}))

    plain = differences("a", "b", 0.0)
    assert differences("b", "a", 0.0) == [-value for value in plain]
    assert differences("a", "b", shift) == pytest.approx(plain, abs=1e-9)
