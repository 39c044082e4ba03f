"""Variants share a panel with seven others at most, and look like no other of theirs, in every figure alike."""

import pandas as pd
import pytest

from ofq.config import params
from ofq.config.grid import Grid, grids
from ofq.config.params import Params
from ofq.report.looks import MOST, in_panels, look
from ofq.report.panels import decade, half_interval
from tests.conftest import ROOT
from tests.report.synthetic import parameters

PARAMS = params.load(ROOT / "params.yaml")


@pytest.mark.parametrize("study", PARAMS.studies)
def test_no_two_variants_of_a_panel_share_a_colour_or_a_marker(study: str) -> None:
    looks = look(PARAMS)
    for grid in grids(PARAMS, study):
        panels = in_panels(grid)
        assert sorted(name for panel in panels for name in panel) == sorted(set(grid.variants) - {"teacher"})
        for panel in panels:
            assert 0 < len(panel) <= MOST
            for part in ("color", "marker"):
                assert len({looks[name][part] for name in panel}) == len(panel), (str(grid), part)


def test_no_look_is_had_twice_as_far_as_a_project_goes() -> None:
    looks = [tuple(each.values()) for each in look(PARAMS).values()]
    assert len(looks) > 40 and len(set(looks)) == len(looks)


def more(count: int, **study: object) -> Params:
    names = [f"v{i}" for i in range(count)]
    variants = {name: {"weight": "lsq" if i % 2 else "statsq"} for i, name in enumerate(names)}
    return parameters({"variants": names, "groups": {}} | study, variants)


def test_kinds_stay_together_and_large_ones_are_shared_out() -> None:
    panels = in_panels(Grid(more(12), "digits"))
    assert [len(panel) for panel in panels] == [6, 6] and panels[0] == [f"v{i}" for i in range(0, 12, 2)]
    assert [len(panel) for panel in in_panels(Grid(more(20), "digits"))] == [5, 5, 5, 5]
    assert in_panels(Grid(more(8), "digits")) == [[f"v{i}" for i in range(8)]]


def test_in_a_grid_with_a_curve_held_and_learned_steps_stand_apart() -> None:
    curve = ["v0", "v2", "v4", "v6"]
    panels = in_panels(Grid(more(18, curve=curve), "digits"))
    assert panels[0] == curve and all(len({int(name[1:]) % 2 for name in panel}) == 1 for panel in panels)


def test_a_variant_that_is_added_leaves_the_looks_of_the_others() -> None:
    before = look(PARAMS)
    after = look(parameters({}, {"another": {"weight": "lsq"}}))
    assert {name: after[name] for name in before} == before


def test_an_interval_is_students_and_a_single_seed_has_none() -> None:
    half = half_interval(pd.Series([1.0, float("nan")]), pd.Series([4, 1]))
    assert half.tolist() == [pytest.approx(3.182446 / 2), 0.0]
    assert (decade(0.002), decade(0.01), decade(7)) == pytest.approx((0.001, 0.01, 1))
