"""Benchmarks start from the project's own parameters: an edit of those must not leave them behind."""

from pathlib import Path

import pytest

from benchmarks.dag import BITS, write_study
from ofq.config.grid import Grid
from tests.conftest import ROOT


def test_the_study_that_planning_is_timed_with_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    parameters = write_study(tmp_path, seeds=2)
    study = parameters.studies["digits"]
    assert len(Grid(parameters, "digits").runs) == 2 * len(BITS) * len(study.variants)
    assert not study.groups and study.measure
