"""The page of names explains every column of the tables that a group may have."""

from pathlib import Path

import pandas as pd

from ofq.config.grid import Grid
from ofq.report.parts.boundary_range import write_boundary_range
from ofq.report.parts.comparison import write_comparison
from ofq.report.parts.noise_table import write_noise_table
from ofq.report.parts.probes import write_coupling
from ofq.report.parts.step_width import write_step_width
from ofq.report.parts.tables import write_tables
from tests.docs.pages import explained
from tests.report.conftest import Made


def test_the_page_of_names_explains_every_column(made: Made) -> None:
    params = made(
        variants=["lsq", "statsq", "statsq-k3", "statsq-cga"],
        compare=[["statsq", "lsq"]],
        curve=["statsq", "statsq-k3"],
    )
    report = Path("results/digits/report")
    parts = write_tables, write_comparison, write_noise_table, write_boundary_range, write_coupling, write_step_width
    for write in parts:
        write(Grid(params, "digits"))
    tables = sorted((report / "tables").glob("*.csv"))
    names = {"comparison", "noise", "boundary_range", "coupling", "main", "best", "ablation", "step_width"}
    assert names <= {path.stem for path in tables}
    for path in tables:
        assert explained(path.name) == list(pd.read_csv(path)), path.name
