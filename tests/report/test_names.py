"""The page of names explains every column of the tables that a group may have."""

from pathlib import Path

import pandas as pd

from ofq.config.grid import Grid
from ofq.report.parts.boundary_range import write_boundary_range
from ofq.report.parts.comparison import write_comparison
from ofq.report.parts.noise_table import write_noise_table
from ofq.report.parts.probes import write_coupling
from ofq.report.parts.tables import write_tables
from tests.docs.pages import explained
from tests.report.conftest import Made


def test_the_page_of_names_explains_every_column(made: Made) -> None:
    params = made(variants=["lsq", "statsq", "statsq-cga"], compare=[["statsq", "lsq"]])
    report = Path("results/digits/report")
    for write in (write_tables, write_comparison, write_noise_table, write_boundary_range, write_coupling):
        write(Grid(params, "digits"))
    tables = sorted((report / "tables").glob("*.csv"))
    assert {"comparison", "noise", "boundary_range", "coupling", "main", "ablation"} <= {path.stem for path in tables}
    for path in tables:
        assert explained(path.name) == list(pd.read_csv(path)), path.name
