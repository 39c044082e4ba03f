"""The parts of a report, listed once: what each is made from, what it makes, when it is made, and what writes it.

Rules, targets, reserved names, the command ``report`` and the page docs/report.md are derived from :data:`ARTEFACTS`. A
new table or figure is one entry here and one file in ``report/parts`` or a room of it: ``NAME.py``, with a function
``write_NAME`` that takes the grid.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from ofq.config.grid import Grid, all_runs, grids, grids_named, published, with_sources
from ofq.runs.paths import EVERYTHING, Run, data_dir, data_info, record_dir, record_note

TABLE = ("csv", "runs.json", "md", "tex", "html")
FIGURE = ("png", "svg")


@dataclass(frozen=True)
class Artefact:
    """One part of a report: tables, figures and files that one function writes from the files of runs.

    Attributes:
        name: name of the rule; the command ``report`` takes it with hyphens.
        reads: kinds of files that it is made from, names in :data:`KINDS`.
        summary: what it does, in the imperative; the rule's message and the command's help.
        when: which grids have it, in words.
        made: returns whether a grid has it.
        asked: whether it is made where it is asked for by name, whatever the grid.
        tables: titles of the tables by name, with their number in the paper, by which the report sorts them.
        figures: titles of the figures by name, likewise.
        files: other files that it makes, below the report's directory.
        room: package of the module that writes it.
    """

    name: str
    reads: tuple[str, ...]
    summary: str
    when: str = "grids without `sweep_lr`"
    made: Callable[[Grid], bool] = lambda grid: grid.settings.sweep_lr is None
    asked: bool = False
    tables: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    room: str = "ofq.report.parts"

    @property
    def part(self) -> str:
        """Its name on the command line."""
        return self.name.replace("_", "-")

    @property
    def module(self) -> str:
        """Full name of the module that writes it."""
        return f"{self.room}.{self.name}"

    @property
    def makes(self) -> list[str]:
        """All files that it makes, below the report's directory."""
        tables = [f"tables/{name}.{suffix}" for name in self.tables for suffix in TABLE]
        figures = [f"figures/{name}.{suffix}" for name in self.figures for suffix in FIGURE]
        return [*tables, *figures, *self.files]

    def needs(self, grid: Grid) -> dict[str, list[Path]]:
        """Return the files that a grid's part is made from, by kind."""
        return {kind: KINDS[kind](grid) for kind in self.reads}

    def write(self, grid: Grid) -> None:
        """Write the part into a grid's report.

        Raises:
            UserError: a file of a run is missing or damaged.
        """
        getattr(import_module(self.module), f"write_{self.name}")(grid)


def files_of(grid: Grid) -> list[str]:
    """Return every file of a grid's report, below its directory."""
    return [name for artefact in ARTEFACTS if artefact.made(grid) for name in artefact.makes]


def crated(grid: Grid) -> tuple[list[Run], list[Path]]:
    """Return the runs that a grid's crate has, and their files and those of reports.

    That of a study has what the study's name makes, and everything once there are verdicts. Of a run it has all but
    weights and the states of trainers: what tables and figures are made from.
    """
    verdicts, sizes = ([grid.directory / name for name in part.makes] for part in (CLAIMS, SIZES))
    whole = grid.group is None and all(path.exists() for path in verdicts)
    parts = grids_named(grid.params, grid.study, EVERYTHING if whole else grid.group)
    files = [part.directory / name for part in parts for name in files_of(part)]
    files += [path for path in (*verdicts, *sizes) if path.exists()]
    runs = with_sources(grid.params, [run for part in parts for run in part.runs])
    records = [path for run in runs for path in published(grid.params, run)]
    records += [path for part in parts for path in part.measured]
    return runs, [*files, *dict.fromkeys(path for path in records if path.suffix not in (".safetensors", ".pt"))]


def is_made(path: Path) -> bool:
    """Return whether a path below a study's report is a file that a part makes, of the main grid or of a group."""
    names = {name for artefact in ARTEFACTS for name in artefact.makes}
    return path.as_posix() in names or Path(*path.parts[1:]).as_posix() in names


def _record(grid: Grid) -> list[Path]:
    """Return the committed main table and the note of its record, if there are any: the grid's is compared with it."""
    paths = record_dir(grid.directory) / "tables" / "main.csv", record_note(grid.study)
    return [path for path in paths if path.exists()]


def _records(grid: Grid) -> list[Path]:
    """Return what verdicts read: records of all runs of a study and its groups, their teachers and measurements."""
    runs = all_runs(grid.params, grid.study)
    files = {path for run in {*runs, *(run.teacher for run in runs)} for path in published(grid.params, run)}
    files |= {path for each in grids(grid.params, grid.study) for path in each.measured}
    return sorted(path for path in files if path.suffix in (".json", ".parquet") and path.name != "run.json")


def _object(grid: Grid) -> list[Path]:
    """Return what goes into a crate: records of runs and data, and reports."""
    return [data_dir(grid.study) / "manifest.json", data_info(grid.study), *crated(grid)[1]]


KINDS: Mapping[str, Callable[[Grid], list[Path]]] = {
    "manifest": lambda grid: [data_dir(grid.study) / "manifest.json"],
    "metrics": lambda grid: [run.files.metrics for run in grid.runs],
    "teachers": lambda grid: [run.files.metrics for run in grid.teachers],
    "oscillation": lambda grid: [run.files.oscillation for run in grid.students],
    "events": lambda grid: [run.files.events for run in grid.students],
    "weights": lambda grid: [run.files.weights for run in grid.students],
    "annealing": lambda grid: [run.files.annealing for run in grid.students if grid.params.variant(run.variant).cga],
    "noise": lambda grid: [run.files.noise for run in grid.trained],
    "probes": lambda grid: [run.files.probe for run in grid.trained],
    "exports": lambda grid: [run.files.sizes for run in grid.exported],
    "record": _record,
    "claims": lambda grid: [Path("claims.yaml")],
    "records": _records,
    "object": _object,
}
"""The kinds of files that parts are made from; each returns those of a grid."""

_REESTIMATED = "grids whose recipes have `reestimation_batches`"


def _reestimates(grid: Grid) -> bool:
    return grid.settings.sweep_lr is None and grid.reestimates


ARTEFACTS = (
    Artefact(
        name="tables",
        reads=("manifest", "metrics", "teachers", "oscillation", "record"),
        summary="write the tables of a grid from the metrics of its runs",
        tables={
            "main": "Table 2: main result",
            "best": "best variant",
            "agreement": "agreement with the record",
            "ablation": "Table 3: ablation of the components",
            "oscillation": "oscillation by layer group",
        },
        files=("tables/main.json",),
    ),
    Artefact(
        name="figures",
        reads=("manifest", "metrics", "teachers", "oscillation", "weights"),
        summary="draw the figures of a grid from the records of its runs",
        figures={
            "accuracy": "accuracy",
            "oscillation": "oscillation over training",
            "latent_weights": "Fig. 3: latent weights",
            "layer_groups": "oscillation by layer group",
        },
        files=("figures/oscillation.csv",),
    ),
    Artefact(
        name="comparison",
        reads=("metrics",),
        summary="write the differences between pairs of variants",
        when="grids with `compare`",
        made=lambda grid: bool(grid.compare),
        tables={"comparison": "pairs of variants"},
    ),
    Artefact(
        name="step_width",
        reads=("manifest", "metrics", "oscillation"),
        summary="hold oscillation and accuracy against the width of the step",
        when="grids with `curve`",
        made=lambda grid: bool(grid.curve),
        tables={"step_width": "step width"},
        figures={
            "step_width": "oscillation against step width",
            "step_width_accuracy": "accuracy against step width",
        },
        files=("figures/step_width.csv",),
    ),
    Artefact(
        name="annealing",
        reads=("annealing",),
        summary="draw how many weights annealing leaves in the band, and where the steps go",
        when="grids with a variant that anneals with a boundary range",
        made=lambda grid: bool(grid.bands),
        figures={
            "annealing": "weights left in the band",
            "scale_trajectories": "steps of the quantizer while annealed",
        },
    ),
    Artefact(
        name="boundary_range",
        reads=("manifest", "metrics", "annealing"),
        summary="write and draw what the width of the annealing band changes",
        when="grids with several boundary ranges",
        made=lambda grid: len(set(grid.bands.values())) > 1,
        tables={"boundary_range": "Table 4: boundary range"},
        figures={"boundary_range": "Table 4: boundary range"},
    ),
    Artefact(
        name="noise_table",
        reads=("noise",),
        summary="write what noise in trained weights does",
        when="grids with `measure: [noise]`",
        made=lambda grid: "noise" in grid.measure,
        tables={"noise": "Table 1: noise in trained weights"},
    ),
    Artefact(
        name="probes",
        reads=("probes",),
        summary="write what the probes of trained runs saw near thresholds",
        when="grids with `measure: [probe]`",
        made=lambda grid: "probe" in grid.measure,
        tables={"coupling": "coupling of query and key"},
        figures={"boundary": "Fig. 4: what weights do near thresholds"},
    ),
    Artefact(
        name="reestimation",
        reads=("manifest", "metrics", "events"),
        summary="write and draw accuracy with running and with re-estimated statistics of batch norms",
        when=_REESTIMATED,
        made=_reestimates,
        room="ofq.report.parts.batch_norms",
        tables={"reestimation": "Nagel et al.: before and after re-estimation"},
        figures={"reestimation": "before and after re-estimation"},
    ),
    Artefact(
        name="divergence",
        reads=("metrics", "oscillation"),
        summary="write and draw how far running statistics of batch norms are from re-estimated ones",
        when=_REESTIMATED,
        made=_reestimates,
        room="ofq.report.parts.batch_norms",
        tables={"divergence": "statistics by layer group"},
        figures={"divergence": "statistics by layer"},
    ),
    Artefact(
        name="learning_rates",
        reads=("metrics",),
        summary="write table and figure of a study that compares learning rates",
        when="studies with `sweep_lr`",
        made=lambda grid: grid.settings.sweep_lr is not None,
        tables={"learning_rate": "learning rates"},
        figures={"learning_rate": "learning rates"},
    ),
    Artefact(
        name="sizes",
        reads=("exports",),
        summary="write what the exported runs of a grid take, and how accurate they are",
        when="`exports`, or by the name of its file",
        made=lambda grid: False,
        asked=True,
        tables={"sizes": "sizes of exported runs", "sizes_by_layer": "sizes by layer"},
    ),
    Artefact(
        name="ro_crate",
        reads=("object", "claims"),
        summary="put a finished grid into an RO-Crate, with metadata of its data and its software",
        when="`crate`, or by the name of its file",
        made=lambda grid: False,
        asked=True,
        files=("crate.zip", "croissant.json", "sbom.json"),
    ),
    Artefact(
        name="claims",
        reads=("claims", "records"),
        summary="give each claim of the papers its verdict on a study",
        when="`everything`, or by the name of its file",
        made=lambda grid: False,
        asked=True,
        figures={"verdicts": "verdicts on the papers' claims"},
        files=("claims.json", "claims.md"),
    ),
)
BY_NAME = {artefact.name: artefact for artefact in ARTEFACTS}
CLAIMS, SIZES, RO_CRATE = BY_NAME["claims"], BY_NAME["sizes"], BY_NAME["ro_crate"]


_HEAD = """\
# Parts of a report

What `results/STUDY/report` holds, and `results/STUDY/report/GROUP` for a group. Each part is a rule of
Snakemake and `python -m ofq report PART STUDY [GROUP]`. This page is written by
`python -m ofq schema --report > docs/report.md` from `src/ofq/report/artefacts.py`. Columns of the tables:
[names.md](names.md).

| part | what it does | tables | figures | other files | made for |
| --- | --- | --- | --- | --- | --- |
"""


def page() -> str:
    """Return the page docs/report.md: one row for each part."""
    rows = []
    for each in ARTEFACTS:
        names = (", ".join(f"`{name}`" for name in part) for part in (each.tables, each.figures, each.files))
        rows.append(f"| `{each.part}` | {each.summary} | {' | '.join(names)} | {each.when} |\n")
    return _HEAD + "".join(rows)
