"""The runs of a study: its main grid, its groups, and the coordinates that its runs may have."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

from ofq.config.params import Params
from ofq.config.studies import Study, swept_names
from ofq.errors import UserError, unknown
from ofq.runs.paths import EVERYTHING, FULL_PRECISION, SEEDS, TEACHER, Run, report_dir


class Grid:
    """The main grid of a study (``group`` None) or one of its groups: its runs, and what is reported of them.

    Attributes:
        params: the whole of ``params.yaml``.
        study: name of the study.
        group: name of the group.
        settings: the study's own section, whatever the group.
        data: the study's data set.
        models: names of its models; what a group leaves out is the study's.
        bits: its bit widths.
        seeds: its seeds.
        variants: names of its variants as listed, including ``teacher`` of a learning-rate sweep.
        quantized: names of its quantized variants, of a sweep one for each learning rate.
        compare: pairs of its variants to compare.
        measure: what is measured on its trained runs: ``noise``, ``probe``.
        curve: names of its variants with held steps of several widths.

    Raises:
        UserError: no such study or group; names the nearest one.
    """

    def __init__(self, params: Params, study: str, group: str | None = None) -> None:
        self.params, self.study, self.group = params, study, group
        self.settings = spec = params.study_named(study)
        if group is not None and group not in spec.groups:
            raise unknown(f"group of study '{study}':", group, spec.groups)
        own = spec if group is None else spec.groups[group]
        self.data = spec.data
        self.models, self.bits, self.seeds = own.models or spec.models, own.bits or spec.bits, own.seeds or spec.seeds
        self.variants, self.compare, self.measure, self.curve = own.variants, own.compare, own.measure, own.curve
        self.quantized = swept_names(spec) or [name for name in own.variants if name != TEACHER]

    def __str__(self) -> str:
        """Return the grid's name for people: ``digits controls``."""
        return f"{self.study} {self.group}" if self.group else self.study

    @property
    def directory(self) -> Path:
        """The directory of its report."""
        return report_dir(self.study, self.group)

    @property
    def seeds_in_words(self) -> str:
        """``seeds 0, 1, 2`` for captions and titles."""
        return f"seed{'s' if len(self.seeds) > 1 else ''} {', '.join(map(str, self.seeds))}"

    @property
    def places(self) -> list[tuple[str, str]]:
        """Its pairs of model and bit width in order: each is a panel or a block of rows."""
        return list(product(self.models, self.bits))

    @cached_property
    def runs(self) -> list[Run]:
        """Its runs by model, bits, variant, seed; in a learning-rate sweep a model's full-precision runs come first."""
        places = [(FULL_PRECISION, name) for name in teacher_names(self.settings) if name != TEACHER]
        places += [(bits, name) for bits in self.bits for name in self.quantized]
        cells = product(self.models, places, self.seeds)
        return [Run(self.study, model, bits, name, seed) for model, (bits, name), seed in cells]

    @property
    def students(self) -> list[Run]:
        """Its quantized runs."""
        return [run for run in self.runs if not run.full_precision]

    @property
    def teachers(self) -> list[Run]:
        """The teachers of its students, sorted."""
        return sorted({run.teacher for run in self.students})

    @property
    def trained(self) -> list[Run]:
        """Its students that are not annealed; only these are measured further."""
        return [run for run in self.students if self.params.variant(run.variant).parent is None]

    @property
    def bands(self) -> dict[str, float]:
        """Boundary range in code steps of each of its variants that is annealed with one."""
        annealed = {name: self.params.variant(name).cga for name in self.quantized}
        return {name: cga.boundary_range for name, cga in annealed.items() if cga and cga.boundary_range is not None}

    @property
    def reestimates(self) -> bool:
        """Whether its students are evaluated with re-estimated statistics of batch norms too, at every place."""
        recipes = [self.params.recipes[self.settings.recipe_of(*place)] for place in self.places]
        return all(recipe.qat.reestimation_batches is not None for recipe in recipes)

    @property
    def published(self) -> list[Path]:
        """Every file of its runs and of their teachers."""
        runs = {*self.runs, *(run.teacher for run in self.runs)}
        return [path for run in sorted(runs) for path in published(self.params, run)]

    @property
    def exported(self) -> list[Run]:
        """Its students of the first seed, which are exported where that is asked for."""
        return [run for run in self.students if run.seed == self.seeds[0]]

    @property
    def measured(self) -> list[Path]:
        """The files of the measurements on its trained runs."""
        return [getattr(run.files, kind) for run in self.trained for kind in self.measure]


def grids(params: Params, study: str) -> list[Grid]:
    """Return the main grid of a study and the grids of its groups."""
    return [Grid(params, study), *(Grid(params, study, group) for group in params.study_named(study).groups)]


def grids_named(params: Params, study: str, group: str | None) -> list[Grid]:
    """Return the grids of what can be asked for: one group, ``everything``, or (None) the main grid with its company.

    The main grid is made with the groups that always go with it.

    Raises:
        UserError: no such study or group.
    """
    groups = params.study_named(study).groups
    if group == EVERYTHING:
        names = [None, *groups]
    elif group is None:
        names = [None, *(name for name, spec in groups.items() if spec.always)]
    else:
        names = [group]
    return [Grid(params, study, name) for name in names]


def all_runs(params: Params, study: str) -> list[Run]:
    """Return the runs of a study's main grid and of all its groups, each once."""
    return list(dict.fromkeys(run for grid in grids(params, study) for run in grid.runs))


def with_sources(params: Params, runs: Iterable[Run]) -> list[Run]:
    """Return runs, their teachers, and the runs that annealed ones continue, sorted."""
    asked = set(runs)
    parents = {run: params.variant(run.variant).parent for run in asked if not run.full_precision}
    continued = {run.sibling(parent) for run, parent in parents.items() if parent is not None}
    return sorted({*asked, *(run.teacher for run in asked), *continued})


def published(params: Params, run: Run) -> list[Path]:
    """Return every file that a run publishes."""
    annealed = not run.full_precision and params.variant(run.variant).parent is not None
    return [*run.files.published, *([run.files.annealing] if annealed else [])]


@dataclass(frozen=True)
class Coordinates:
    """The names that a run of a study or of its groups may have, in the order of ``params.yaml``.

    Attributes:
        models: models of its grids.
        bits: bit widths of its grids, and that of full precision.
        teachers: full-precision runs: ``teacher``, and those of a learning-rate sweep.
        variants: variants of its grids, and the parents of annealed ones.
    """

    models: list[str]
    bits: list[str]
    teachers: list[str]
    variants: list[str]

    @classmethod
    def of(cls, params: Params, study: str) -> "Coordinates":
        """Return the coordinates of a study.

        Raises:
            UserError: no such study.
        """
        spec, all_grids = params.study_named(study), grids(params, study)
        listed = [name for grid in all_grids for name in grid.quantized]
        parents = [parent for name in listed if (parent := params.variant(name).parent)]
        return cls(
            models=_each_once(name for grid in all_grids for name in grid.models),
            bits=_each_once([*(bits for grid in all_grids for bits in grid.bits), FULL_PRECISION]),
            teachers=teacher_names(spec),
            variants=_each_once([*listed, *parents]),
        )


def check_run(params: Params, run: Run) -> None:
    """Raise :class:`UserError` with the nearest right name if a coordinate of the run does not exist."""
    known = Coordinates.of(params, run.study)
    if run.seed >= SEEDS:
        raise UserError(f"seed {run.seed} of {run} is too large; it should be less than {SEEDS}")
    for kind, name, listed in (("model", run.model, known.models), ("bits", run.bits, known.bits)):
        if name not in listed:
            raise unknown(f"{kind} of study '{run.study}':", name, listed)
    names = known.teachers if run.full_precision else known.variants
    if run.variant not in names:
        if run.variant in params.variants and not run.full_precision and not params.studies[run.study].sweep_lr:
            raise UserError(
                f"variant '{run.variant}' stands in no list of study '{run.study}' at {run.bits}; "
                f"add it to studies.{run.study}.variants, or to those of a group"
            )
        raise unknown(f"variant of study '{run.study}' at {run.bits}:", run.variant, names)


def teacher_names(study: Study) -> list[str]:
    """Return the names of a study's full-precision runs: the teacher, and those of a learning-rate sweep."""
    rates = study.sweep_lr.teacher if study.sweep_lr and TEACHER in study.variants else []
    return [TEACHER, *(f"{TEACHER}-lr{rate:g}" for rate in rates)]


def _each_once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
