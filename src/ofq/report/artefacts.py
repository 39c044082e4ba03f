"""The parts of a report, listed once: what each is made from, what it makes, when it is made, and what writes it.

Rules, targets, reserved names, the command ``report`` and the page docs/report.md are derived from :data:`ARTEFACTS`. A
new table or figure is one entry here and one file in ``report/parts``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from ofq.config.grid import Grid, all_runs, grids, published
from ofq.runs.paths import Run, record_dir

TABLE = ("csv", "runs.json", "md", "tex", "html")
FIGURE = ("png", "svg")

Needs = dict[str, list[Path]]


@dataclass(frozen=True)
class Artefact:
    """One part of a report: tables, figures and files that one function writes from the files of runs.

    Attributes:
        name: name of the rule; the command ``report`` takes it with hyphens.
        writer: ``module:function`` below ``ofq.report``; the function takes the grid.
        needs: returns the files that a grid's part is made from, by kind.
        summary: what it does, in the imperative; the rule's message and the command's help.
        when: which grids have it, in words.
        made: returns whether a grid has it.
        tables: titles of the tables by name.
        figures: titles of the figures by name.
        files: other files that it makes, below the report's directory.
    """

    name: str
    writer: str
    needs: Callable[[Grid], Needs]
    summary: str
    when: str = "every grid"
    made: Callable[[Grid], bool] = lambda grid: not _sweep(grid)
    tables: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    @property
    def part(self) -> str:
        """Its name on the command line."""
        return self.name.replace("_", "-")

    @property
    def module(self) -> str:
        """Full name of the module that writes it."""
        return f"ofq.report.{self.writer.partition(':')[0]}"

    @property
    def makes(self) -> list[str]:
        """All files that it makes, below the report's directory."""
        tables = [f"tables/{name}.{suffix}" for name in self.tables for suffix in TABLE]
        figures = [f"figures/{name}.{suffix}" for name in self.figures for suffix in FIGURE]
        return [*tables, *figures, *self.files]

    def write(self, grid: Grid) -> None:
        """Write the part into a grid's report.

        Raises:
            UserError: the grid has no such part, or a file of a run is missing or damaged.
        """
        getattr(import_module(self.module), self.writer.partition(":")[2])(grid)


def files_of(grid: Grid) -> list[str]:
    """Return every file of a grid's report, below its directory."""
    return [name for artefact in ARTEFACTS if artefact.made(grid) for name in artefact.makes]


def _sweep(grid: Grid) -> bool:
    return grid.settings.sweep_lr is not None


def _several_bands(grid: Grid) -> bool:
    return len(set(grid.bands.values())) > 1


def _metrics(runs: list[Run]) -> list[Path]:
    return [run.files.metrics for run in runs]


def _common(grid: Grid) -> Needs:
    return {
        "metrics": _metrics(grid.runs),
        "teachers": _metrics(grid.teachers),
        "oscillation": [run.files.oscillation for run in grid.students],
    }


def _tables(grid: Grid) -> Needs:
    record = record_dir(grid.directory) / "tables" / "main.csv"  # the main table is compared with it
    return _common(grid) | {"record": [record] if record.exists() else []}


def _figures(grid: Grid) -> Needs:
    return _common(grid) | {"weights": [run.files.weights for run in grid.students]}


def _annealing(grid: Grid) -> Needs:
    return {"annealing": [run.files.annealing for run in grid.runs if run.variant in grid.bands]}


def _records(grid: Grid) -> Needs:
    """Return the inputs of verdicts: records of all runs of a study and its groups, their teachers and measurements."""
    runs = all_runs(grid.params, grid.study)
    files = {path for run in {*runs, *(run.teacher for run in runs)} for path in published(grid.params, run)}
    files |= {path for each in grids(grid.params, grid.study) for path in each.measured}
    wanted = [path for path in files if path.suffix in (".json", ".parquet") and path.name != "run.json"]
    return {"claims": [Path("claims.yaml")], "records": sorted(wanted)}


ARTEFACTS = (
    Artefact(
        name="tables",
        writer="parts.tables:write_tables",
        needs=_tables,
        summary="write the tables of a grid from the metrics of its runs",
        tables={
            "main": "main result",
            "agreement": "agreement with the record",
            "ablation": "ablation of the components",
            "oscillation": "oscillation by layer group",
        },
        files=("tables/main.json",),
    ),
    Artefact(
        name="figures",
        writer="parts.figures:write_figures",
        needs=_figures,
        summary="draw the figures of a grid from the records of its runs",
        figures={
            "accuracy": "accuracy",
            "oscillation": "oscillation over training",
            "latent_weights": "latent weights",
            "layer_groups": "oscillation by layer group",
        },
        files=("figures/oscillation.csv",),
    ),
    Artefact(
        name="comparison",
        writer="parts.comparison:write_comparison",
        needs=lambda grid: {"metrics": _metrics(grid.runs)},
        summary="write the differences between pairs of variants",
        when="grids with `compare`",
        made=lambda grid: bool(grid.compare),
        tables={"comparison": "pairs of variants"},
    ),
    Artefact(
        name="annealing",
        writer="parts.annealing:write_annealing",
        needs=_annealing,
        summary="draw how many weights annealing leaves in the band",
        when="grids with a variant that anneals with a boundary range",
        made=lambda grid: bool(grid.bands),
        figures={"annealing": "weights left in the band"},
    ),
    Artefact(
        name="boundary_range",
        writer="parts.boundary_range:write_boundary_range",
        needs=lambda grid: {"metrics": _metrics(grid.runs)} | _annealing(grid),
        summary="write what the width of the annealing band changes, and draw where the steps go",
        when="grids with several boundary ranges",
        made=_several_bands,
        tables={"boundary_range": "boundary range"},
        figures={"scale_trajectories": "steps of the quantizer while annealed"},
    ),
    Artefact(
        name="noise_table",
        writer="parts.noise:write_noise",
        needs=lambda grid: {"noise": [run.files.noise for run in grid.trained]},
        summary="write what noise in trained weights does",
        when="grids with `measure: [noise]`",
        made=lambda grid: "noise" in grid.measure,
        tables={"noise": "noise in trained weights"},
    ),
    Artefact(
        name="probes",
        writer="parts.probes:write_probes",
        needs=lambda grid: {"probes": [run.files.probe for run in grid.trained]},
        summary="write what the probes of trained runs saw near thresholds",
        when="grids with `measure: [probe]`",
        made=lambda grid: "probe" in grid.measure,
        tables={"coupling": "coupling of query and key"},
        figures={"boundary": "what weights do near thresholds"},
    ),
    Artefact(
        name="learning_rates",
        writer="parts.learning_rates:write_learning_rates",
        needs=lambda grid: {"metrics": _metrics(grid.runs)},
        summary="write table and figure of a study that compares learning rates",
        when="studies with `sweep_lr`",
        made=_sweep,
        tables={"learning_rate": "learning rates"},
        figures={"learning_rate": "learning rates"},
    ),
    Artefact(
        name="claims",
        writer="claims.write:write_claims",
        needs=_records,
        summary="give each claim of the papers its verdict on a study",
        when="`everything`, or by the name of its file",
        made=lambda grid: False,
        files=("claims.json", "claims.md"),
    ),
)
CLAIMS = ARTEFACTS[-1]
BY_NAME = {artefact.name: artefact for artefact in ARTEFACTS}


def page() -> str:
    """Return the page docs/report.md: one row for each part."""
    lines = [
        "# Parts of a report",
        "",
        "What `results/STUDY/report` holds, and `results/STUDY/report/GROUP` for a group. Each part is a rule of",
        "Snakemake and `python -m ofq report PART STUDY [GROUP]`. This page is written by",
        "`python -m ofq schema --report > docs/report.md` from `src/ofq/report/artefacts.py`. Columns of the tables:",
        "[names.md](names.md).",
        "",
        "| part | what it does | tables | figures | other files | made for |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for artefact in ARTEFACTS:
        names = (
            ", ".join(f"`{name}`" for name in part) for part in (artefact.tables, artefact.figures, artefact.files)
        )
        lines.append(f"| `{artefact.part}` | {artefact.summary} | {' | '.join(names)} | {artefact.when} |")
    return "\n".join(lines) + "\n"
