"""The runs of a study: its main grid, its groups, and the coordinates that its runs may have."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ofq.config.params import Params
from ofq.config.settings import Data
from ofq.config.studies import Group, Study, swept_names
from ofq.errors import UserError, unknown
from ofq.runs.paths import FULL_PRECISION, SEEDS, TEACHER, Run, report_dir


@dataclass(frozen=True)
class Grid:
    """The main grid of a study (``group`` None) or one of its groups: its runs, and what is reported of them.

    Raises:
        UserError: no such study or group; names the nearest one.
    """

    params: Params
    study: str
    group: str | None = None

    def __post_init__(self) -> None:
        groups = self.settings.groups
        if self.group is not None and self.group not in groups:
            raise unknown(f"group of study '{self.study}':", self.group, groups)

    def __str__(self) -> str:
        """Return the grid's name for people: ``digits controls``."""
        return f"{self.study} {self.group}" if self.group else self.study

    @property
    def settings(self) -> Study:
        """The study's own section, whatever the group."""
        return self.params.study_named(self.study)

    @property
    def _own(self) -> Study | Group:
        return self.settings if self.group is None else self.settings.groups[self.group]

    @property
    def models(self) -> list[str]:
        """Names of its models."""
        return list(self._own.models or self.settings.models)

    @property
    def bits(self) -> list[str]:
        """Its bit widths."""
        return list(self._own.bits or self.settings.bits)

    @property
    def seeds(self) -> list[int]:
        """Its seeds."""
        return list(self._own.seeds or self.settings.seeds)

    @property
    def variants(self) -> list[str]:
        """Names of its variants as listed, including ``teacher`` of a learning-rate sweep."""
        return list(self._own.variants)

    @property
    def compare(self) -> list[list[str]]:
        """Pairs of its variants to compare."""
        return list(self._own.compare)

    @property
    def measure(self) -> list[str]:
        """What is measured on its trained runs: ``noise``, ``probe``."""
        return list(self._own.measure)

    @property
    def data(self) -> Data:
        """The study's data set."""
        return self.settings.data

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
        return [(model, bits) for model in self.models for bits in self.bits]

    @cached_property
    def runs(self) -> list[Run]:
        """Its runs by model, bits, variant, seed; in a learning-rate sweep a model's full-precision runs come first."""
        spec = self.settings
        teachers = [name for name in teacher_names(spec) if name != TEACHER]
        listed = swept_names(spec) if spec.sweep_lr else [name for name in self.variants if name != TEACHER]
        places = [(FULL_PRECISION, name) for name in teachers] + [(bits, name) for bits in self.bits for name in listed]
        return [
            Run(self.study, model, bits, name, seed)
            for model in self.models
            for bits, name in places
            for seed in self.seeds
        ]

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
        annealed = {name: self.params.variant(name).cga for name in self.variants if name != TEACHER}
        return {name: cga.boundary_range for name, cga in annealed.items() if cga and cga.boundary_range is not None}

    @property
    def published(self) -> list[Path]:
        """Every file of its runs and of their teachers."""
        runs = {*self.runs, *(run.teacher for run in self.runs)}
        return [path for run in sorted(runs) for path in published(self.params, run)]

    @property
    def measured(self) -> list[Path]:
        """The files of the measurements on its trained runs."""
        return [getattr(run.files, kind) for run in self.trained for kind in self.measure]


def grids(params: Params, study: str) -> list[Grid]:
    """Return the main grid of a study and the grids of its groups."""
    return [Grid(params, study), *(Grid(params, study, group) for group in params.study_named(study).groups)]


def all_runs(params: Params, study: str) -> list[Run]:
    """Return the runs of a study's main grid and of all its groups, each once."""
    return list(dict.fromkeys(run for grid in grids(params, study) for run in grid.runs))


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
        if spec.sweep_lr is not None:
            variants = swept_names(spec)
        else:
            listed = _each_once(name for grid in all_grids for name in grid.variants if name != TEACHER)
            variants = _each_once([*listed, *(parent for name in listed if (parent := params.variant(name).parent))])
        return cls(
            models=_each_once(name for grid in all_grids for name in grid.models),
            bits=_each_once([*(bits for grid in all_grids for bits in grid.bits), FULL_PRECISION]),
            teachers=teacher_names(spec),
            variants=variants,
        )


def check_run(params: Params, run: Run) -> None:
    """Raise :class:`UserError` with the nearest right name if a coordinate of the run does not exist."""
    known = Coordinates.of(params, run.study)
    if run.seed >= SEEDS:
        raise UserError(f"seed {run.seed} of {run} is too large; it should be less than {SEEDS}")
    if run.model not in known.models:
        raise unknown(f"model of study '{run.study}':", run.model, known.models)
    if run.bits not in known.bits:
        raise unknown(f"bits of study '{run.study}':", run.bits, known.bits)
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
