"""A new table of the report costs one file and one entry."""

from tests.conftest import Project

WRITER = '''"""The table ``seeds``: how many seeds each variant has."""

from ofq.config.grid import Grid
from ofq.report import collect
from ofq.report.render import write_table


def write_seeds(grid: Grid) -> None:
    """Write ``tables/seeds.*``."""
    data = collect.spread(collect.metrics(grid.students), [])
    write_table(grid.directory / "tables", "seeds", data, data[["variant", "n"]].astype(str), list(data["runs"]), "Seeds.")
'''
ENTRY = """    Artefact(
        name="seeds",
        reads=("metrics",),
        summary="count the seeds of each variant",
        tables={"seeds": "seeds of each variant"},
    ),
    Artefact(
        name="claims",
"""


def test_a_new_table_is_one_file_and_one_entry(project: Project) -> None:
    project.params["studies"]["digits"] |= {"variants": ["lsq"], "seeds": [0]}
    project.write_params()
    package = project.root / "src/ofq/report"
    (package / "parts/seeds.py").write_text(WRITER)
    listed = package / "artefacts.py"
    listed.write_text(listed.read_text().replace('    Artefact(\n        name="claims",\n', ENTRY))
    table = "results/digits/report/tables/seeds.csv"
    assert project.plan()["seeds"] == 1, "a study makes it"
    done = project.run("snakemake", table)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project.root / table).read_text() == "model,bits,variant,n\nvit_micro,w2a2,lsq,1\n"
    (project.root / table).unlink()
    assert project.ofq("report", "seeds", "digits").returncode == 0 and (project.root / table).exists()
    (project.root / table).unlink()
    assert project.ofq("seeds", "digits").returncode == 0 and (project.root / table).exists()
    assert "seeds" in project.ofq("--help").stdout and "`seeds`" in project.ofq("schema", "--report").stdout
    nearest = project.run("snakemake", "-n", "results/digits/report/tables/seed.csv")
    assert nearest.returncode == 2 and "did you mean 'report/tables/seeds.csv'?" in nearest.stderr
    project.params["studies"]["seeds"] = project.params["studies"]["digits"]
    project.write_params()
    assert "'seeds' is a reserved name" in project.run("snakemake", "-n").stderr
