"""Typed parameters: load ``params.yaml``, validate it, resolve one run to a :class:`RunConfig`.

The Snakefile and the command line both come through here, so a mistake in ``params.yaml`` is one
line with the nearest right name wherever it is met. ``params.schema.json``, which editors use, is
generated from these types (``python -m ofq schema``).
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from ofq.errors import UserError, unknown
from ofq.paths import FULL_PRECISION, PARAMS, SEEDS, TEACHER, Run
from ofq.provenance import find_class
from ofq.settings import Cga, Data, Model, Name, Phase, Recipe, Remedy, Strict, Study, Variant
from ofq.yaml_model import read_model

# Paths of a study's runs begin with a model's name, beside these.
_BESIDE_MODELS = {"data", "report", "mlflow.json"}
# Snakemake knows rules and studies by one kind of name.
RULES = {"all", "data", "teacher", "qat", "cga", "probe", "tables", "figures", "sweep", "track"}


@dataclass(frozen=True)
class Keeping:
    """How the resumable state of a run is kept and taken up. It changes no number, so it is no part of the run.

    Attributes:
        checkpoint_seconds: from one checkpoint to the next, at least.
        rerun_on_code: the study's setting: whether other code runs everything again.
        resume_across_code: the caller's choice to go on from a state that other code saved.
    """

    checkpoint_seconds: float = 30.0
    rerun_on_code: bool = True
    resume_across_code: bool = False

    @property
    def across_code(self) -> bool:
        """Whether a state that other code saved is taken up."""
        return self.resume_across_code or not self.rerun_on_code


KEEPING = Keeping()


class Quantization(Strict):
    """The switches of :class:`ofq.quant.QuantConfig` that a run uses."""

    weight: Literal["lsq", "lsq-midrise", "statsq"]
    weight_bits: int
    input_bits: int
    qkr: bool
    dead_biases: bool


class RunConfig(Strict):
    """Everything that one run depends on, and nothing else."""

    phase: Literal["teacher", "qat", "cga"]
    data: Data
    model: Model
    seed: int
    train: Phase
    calibration_batches: int | None = None
    teacher_once: bool | None = None
    quantization: Quantization | None = None
    cga: Cga | None = None
    remedy: Remedy | None = None
    parent: str | None = None
    threads: int
    compile: bool = Field(True, exclude=True)  # changes no number: no part of what Snakemake compares

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules that this run executes beside those of its step: part of the digest of its code."""
        return () if self.remedy is None else (self.remedy.place[0],)

    def canonical(self) -> str:
        """Stable JSON, what Snakemake compares to decide whether settings changed."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), sort_keys=True)

    def key(self, code: str) -> str:
        """Name of the resumable state: configuration and code digest in 12 hexadecimal digits."""
        return hashlib.sha256(f"{self.canonical()}\n{code}".encode()).hexdigest()[:12]


class Params(Strict):
    """The whole of ``params.yaml``."""

    study: Name = Field(description="the study that a bare `snakemake` builds")
    studies: dict[Name, Study] = Field(description="grids of runs, each with tables and figures of its own")
    recipes: dict[Name, Recipe] = Field(description="sets of hyper-parameters")
    models: dict[Name, Model] = Field(description="backbones")
    variants: dict[Name, Variant] = Field(description="what is compared: sets of switches")

    @model_validator(mode="after")
    def _names_exist(self) -> "Params":
        if self.study not in self.studies:
            raise ValueError(f"study: {unknown('study', self.study, self.studies)}")
        for section, names, reserved in (
            ("studies", self.studies, {"reference"} | RULES),
            ("models", self.models, _BESIDE_MODELS),
            ("variants", self.variants, {TEACHER}),
        ):
            for name in sorted(reserved & set(names)):
                raise ValueError(f"{section}: '{name}' is a reserved name, choose another")
        for name, variant in self.variants.items():
            if variant.parent is not None:
                where = f"variants.{name}.parent"
                if variant.parent not in self.variants:
                    raise ValueError(f"{where}: {unknown('variant', variant.parent, self.variants)}")
                if self.variants[variant.parent].parent is not None:
                    raise ValueError(f"{where}: '{variant.parent}' is itself annealed; name the run that it continues")
        for name, study in self.studies.items():
            where = f"studies.{name}"
            if study.recipe not in self.recipes:
                raise ValueError(f"{where}.recipe: {unknown('recipe', study.recipe, self.recipes)}")
            for model in study.models:
                if model not in self.models:
                    raise ValueError(f"{where}.models: {unknown('model', model, self.models)}")
            for listed in study.variants:
                if listed not in {TEACHER, *self.variants}:
                    raise ValueError(f"{where}.variants: {unknown('variant', listed, self.variants)}")
            if study.sweep_lr is not None:
                for listed in study.variants:
                    if listed != TEACHER and self.variants[listed].parent is not None:
                        raise ValueError(f"{where}.sweep_lr cannot try '{listed}', an annealed variant: leave it out")
                for taken in sorted(set(self.variant_names(name)) & set(self.variants)):
                    raise ValueError(f"{where}.sweep_lr makes a variant '{taken}': give your own another name")
        return self

    def study_named(self, name: str) -> Study:
        """The study of that name, or :class:`UserError` with the nearest one."""
        if name not in self.studies:
            raise unknown("study", name, self.studies)
        return self.studies[name]

    def variant(self, name: str) -> Variant:
        """The variant of that name, those made by a learning-rate sweep included."""
        if name in self.variants:
            return self.variants[name]
        base, rate = name.rsplit("-lr", 1)
        return self.variants[base].model_copy(update={"lr": float(rate)})

    def variant_names(self, study: str) -> list[str]:
        """Names that may stand in a run of the study (without the teachers), in the order of ``params.yaml``."""
        spec = self.study_named(study)
        names = [name for name in spec.variants if name != TEACHER]
        if spec.sweep_lr is None:
            parents = [self.variants[name].parent for name in names]
            return [*names, *(parent for parent in dict.fromkeys(parents) if parent and parent not in names)]
        return [f"{name}-lr{rate:g}" for name in names for rate in spec.sweep_lr.qat]

    def teacher_names(self, study: str) -> list[str]:
        """Names of the study's full-precision runs: the teacher, and those of a learning-rate sweep."""
        spec = self.study_named(study)
        rates = spec.sweep_lr.teacher if spec.sweep_lr and TEACHER in spec.variants else []
        return [TEACHER, *(f"{TEACHER}-lr{rate:g}" for rate in rates)]

    def runs(self, study: str) -> list[Run]:
        """The runs that the study's tables are made of, in order: model, bits, variant, seed."""
        spec = self.study_named(study)
        swept = [name for name in self.teacher_names(study) if name != TEACHER]
        listed = self.variant_names(study) if spec.sweep_lr else [v for v in spec.variants if v != TEACHER]
        grid = [(FULL_PRECISION, name) for name in swept] + [(bits, name) for bits in spec.bits for name in listed]
        return [Run(study, m, bits, name, seed) for m in spec.models for bits, name in grid for seed in spec.seeds]

    def keeping(self, study: str, *, resume_across_code: bool = False) -> Keeping:
        """How the study's runs keep their state."""
        spec = self.study_named(study)
        return Keeping(spec.checkpoint_seconds, spec.rerun_on_code, resume_across_code)

    def check(self, run: Run) -> None:
        """Raise :class:`UserError` with the nearest right name where a coordinate of the run does not exist."""
        spec = self.study_named(run.study)
        if run.seed >= SEEDS:
            raise UserError(f"seed {run.seed} of {run} is too large; it should be less than {SEEDS}")
        if run.model not in spec.models:
            raise unknown(f"model of study '{run.study}':", run.model, spec.models)
        if run.bits != FULL_PRECISION and run.bits not in spec.bits:
            raise unknown(f"bits of study '{run.study}':", run.bits, [*spec.bits, FULL_PRECISION])
        names = self.teacher_names(run.study) if run.bits == FULL_PRECISION else self.variant_names(run.study)
        if run.variant not in names:
            raise unknown(f"variant of study '{run.study}' at {run.bits}:", run.variant, names)

    def resolve(self, run: Run) -> RunConfig:
        """Everything that the run depends on."""
        self.check(run)
        study = self.studies[run.study]
        recipe = self.recipes[study.recipe]
        # Where the files lie and what the tables show beside a model change no number: they are no part of a run.
        common: dict[str, Any] = {
            "data": study.data.model_copy(update={"root": None}),
            "model": self.models[run.model].model_copy(update={"paper_model": None}),
            "seed": run.seed,
            "threads": study.threads,
            "compile": study.compile,
        }
        if run.bits == FULL_PRECISION:
            rate = float(run.variant.rsplit("-lr", 1)[1]) if run.variant != TEACHER else None
            return RunConfig(phase="teacher", train=_with_lr(recipe.teacher, rate), **common)
        variant = self.variant(run.variant)
        source = self.variants[variant.parent] if variant.parent else variant
        quantization = Quantization(
            weight=source.weight or "statsq",
            weight_bits=int(run.bits[1]),
            input_bits=int(run.bits[3]),
            qkr=source.qkr,
            dead_biases=source.fidelity == "as_released",
        )
        if variant.parent is None:
            return RunConfig(
                phase="qat",
                train=_with_lr(recipe.qat, variant.lr),
                calibration_batches=recipe.calibration_batches,
                teacher_once=recipe.teacher_once,
                quantization=quantization,
                remedy=variant.remedy,
                **common,
            )
        rate = variant.lr or recipe.cga.lr or recipe.qat.min_lr
        train = recipe.qat.model_copy(
            update={"lr": rate, "min_lr": rate, "steps": recipe.cga.steps, "warmup": 0.0, "constant_steps": 0}
        )
        return RunConfig(
            phase="cga",
            train=train,
            teacher_once=recipe.teacher_once,
            quantization=quantization,
            cga=variant.cga,
            parent=variant.parent,
            **common,
        )


def _with_lr(phase: Phase, lr: float | None) -> Phase:
    """The phase at another peak rate; the lowest rate keeps its ratio to it."""
    return phase if lr is None else phase.model_copy(update={"lr": lr, "min_lr": phase.min_lr * lr / phase.lr})


def load(path: Path = PARAMS) -> Params:
    """Read and validate ``params.yaml``.

    Raises:
        UserError: the file is missing, is no YAML, or holds an unknown key or a bad value, or a remedy's class is not
            there; names the place.
    """
    params = read_model(path, Params)
    for name, variant in params.variants.items():
        remedy = variant.remedy
        if remedy is not None and ":" in remedy.name and (problem := find_class(*remedy.place)):
            raise UserError(f"{path}: variants.{name}.remedy.name: {problem}")
    return params


def json_schema() -> str:
    """JSON schema of ``params.yaml`` for editors, generated from the types above."""
    return json.dumps(Params.model_json_schema(), indent=2) + "\n"
