"""The studies of ``params.yaml``: grids of runs, and what is reported of them.

The settings of a single run are in :mod:`ofq.config.settings`, the runs of a study in :mod:`ofq.config.grid`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ofq.config.section import Strict
from ofq.config.settings import Bits, Data, Hardware, LearningRate, Name
from ofq.errors import unknown
from ofq.runs.paths import SEEDS, TEACHER

Seed = Annotated[int, Field(ge=0, lt=SEEDS)]


class LearningRates(Strict):
    """Peak learning rates to try: every variant of the study becomes one variant for each rate."""

    teacher: list[LearningRate] = Field([], description="of teachers; needs `teacher` among the study's variants")
    qat: list[LearningRate] = Field([], description="of quantization-aware training")

    @field_validator("teacher", "qat")
    @classmethod
    def _nameable(cls, rates: list[float]) -> list[float]:
        for rate in rates:
            if float(f"{rate:g}") != rate:
                raise ValueError(f"{rate!r} should have at most six digits: it becomes part of a run's name")
        return _no_repeats(rates)


class Reported(Strict):
    """What is reported of a grid of runs beside its common tables and figures."""

    compare: list[Annotated[list[Name], Field(min_length=2, max_length=2)]] = Field(
        [], description="pairs of its variants whose difference, paired by seed, is a row of the table `comparison`"
    )
    measure: list[Literal["noise", "probe"]] = Field(
        [],
        description="what is measured on its finished runs, those of annealed variants apart: `noise` in their "
        "weights, `probe` of their further oscillation",
    )

    curve: list[Name] = Field(
        [],
        description="variants with steps of several widths that do not learn: the part `step-width` of the report "
        "compares the other variants with the curve through them",
    )

    @field_validator("compare", "measure", "curve", "models", "bits", "variants", "seeds", check_fields=False)
    @classmethod
    def _each_once(cls, values: list[Any] | None) -> list[Any] | None:
        return None if values is None else _no_repeats(values)

    def check_names(self, variants: list[str]) -> None:
        """Raise ValueError if a pair or the curve names a variant that the grid does not have, or only one."""
        for pair in self.compare:
            if pair[0] == pair[1]:
                raise ValueError(f"compare: '{pair[0]}' with itself is no comparison")
        named = [("compare", name) for pair in self.compare for name in pair]
        for key, name in [*named, *(("curve", name) for name in self.curve)]:
            if name not in variants:
                raise ValueError(f"{key}: {unknown('variant of the grid', name, variants)}")
        if len(self.curve) == 1:
            raise ValueError("curve: a curve needs two variants at least")


class Group(Reported):
    """A further grid of a study, with a report of its own. What is left out is the study's."""

    models: list[Name] | None = Field(None, min_length=1, description="names under `models`")
    bits: list[Bits] | None = Field(None, min_length=1, description="bit widths of weights and activations")
    variants: list[Name] = Field(min_length=1, description="names under `variants`, in the order of the tables")
    seeds: list[Seed] | None = Field(None, min_length=1, description="seeds of its runs")
    always: bool = Field(False, description="made with the study's main grid, not by its own name only")

    @model_validator(mode="after")
    def _names_of_its_own(self) -> "Group":
        self.check_names(self.variants)
        return self


class Study(Reported):
    """A grid of runs over one data set, and further ones by name."""

    data: Data = Field(description="data set, and which images are evaluated")
    models: list[Name] = Field(min_length=1, description="names under `models`")
    bits: list[Bits] = Field(min_length=1, description="bit widths of weights and activations, such as w2a2")
    variants: list[Name] = Field(min_length=1, description="names under `variants`, in the order of the tables")
    seeds: list[Seed] = Field(min_length=1, description="seeds of the initial weights and of the order of the images")
    recipe: Name = Field(description="name under `recipes`")
    recipe_for: dict[str, Name] = Field(
        default_factory=dict,
        description="names under `recipes` for single models and bit widths, such as `deit_small/w3a3`, in place of "
        "`recipe`; `MODEL/fp` is the model's teacher",
    )
    sweep_lr: LearningRates | None = Field(None, description="peak learning rates to compare in this study")
    learning_rates: Name | None = Field(
        None, description="study with sweep_lr in which the recipe's learning rates were compared: part of `everything`"
    )
    groups: dict[Name, Group] = Field(
        default_factory=dict,
        description="further grids, made by name only: `snakemake STUDY-GROUP`, and of the default study also "
        "`snakemake GROUP`; `everything` makes them all and gives each claim its verdict",
    )
    threads: Annotated[int, Field(gt=0, le=1024)] = Field(
        1, description="CPU threads of one run; part of what a number depends on"
    )
    hardware: Hardware = Field(default_factory=Hardware, description="where its runs compute, and how exactly")
    checkpoint_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        30.0, description="from one checkpoint to the next, at least; more where saving would take over 2 % of the time"
    )
    rerun_on_code: bool = Field(
        True,
        description="another version of the code runs everything again; false, for long studies: finished runs stay, "
        "unfinished ones go on under the new code, and run.json says so",
    )

    def recipe_of(self, model: str, bits: str) -> str:
        """Return the name of the recipe of a model's runs at a bit width."""
        return self.recipe_for.get(f"{model}/{bits}", self.recipe)

    @model_validator(mode="after")
    def _some_runs(self) -> "Study":
        students = [name for name in self.variants if name != TEACHER]
        if self.sweep_lr is not None and (self.groups or self.compare or self.measure or self.curve):
            raise ValueError("groups, compare, measure and curve mean nothing beside sweep_lr: leave them out")
        self.check_names(students)
        if self.sweep_lr is None:
            if not students:
                raise ValueError("variants should name a quantized one; `teacher` alone needs sweep_lr")
            return self
        if not self.sweep_lr.teacher and not self.sweep_lr.qat:
            raise ValueError("sweep_lr should name learning rates, of teacher or of qat")
        if self.sweep_lr.teacher and TEACHER not in self.variants:
            raise ValueError("sweep_lr.teacher needs `teacher` among the study's variants")
        if bool(self.sweep_lr.qat) != bool(students):
            raise ValueError("sweep_lr.qat and quantized variants need each other: name both or neither")
        return self


def swept_names(study: Study) -> list[str]:
    """Return the names of a sweep's quantized variants: each listed one at each learning rate; none without a sweep."""
    rates = study.sweep_lr.qat if study.sweep_lr else []
    return [f"{name}-lr{rate:g}" for name in study.variants if name != TEACHER for rate in rates]


def _no_repeats(values: list[Any]) -> list[Any]:
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"named twice: {', '.join(repeated)}; name each once")
    return values
