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

from ofq.config.settings import Cga, Data, Model, Name, Phase, Recipe, Remedy, Strict, Variant
from ofq.config.studies import Grid, Group, Study
from ofq.config.yaml_model import read_model
from ofq.errors import UserError, unknown
from ofq.runs.code import find_class
from ofq.runs.paths import FULL_PRECISION, PARAMS, SEEDS, TEACHER, Run

# Paths of a study's runs begin with a model's name, beside these.
_BESIDE_MODELS = {"data", "report", "mlflow.json"}
# Snakemake knows rules and studies by one kind of name.
RULES = {"all", "data", "teacher", "qat", "cga", "tables", "figures", "learning_rates", "claims", "track"}
RULES |= {"track_group", "probe", "noise", "toy", "toy_figure"}
RULES |= {"comparison", "annealing", "boundary_range", "noise_table", "probes"}
EVERYTHING = "everything"
"""Name of the target that makes a study with all of its groups and the claims."""
# Beside the main grid's report stand those of the groups.
_BESIDE_GROUPS = {EVERYTHING, "tables", "figures", "claims.md", "claims.json"}


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
    learn_step: bool | None = None
    clipped_gradient: Literal["zero", "identity"] | None = None


class RunConfig(Strict):
    """Everything that one run depends on, and nothing else."""

    phase: Literal["teacher", "qat", "cga"]
    data: Data
    model: Model
    seed: int
    train: Phase
    calibration_batches: int | None = None
    teacher_once: bool | None = None
    teacher_mode: Literal["train"] | None = None
    attention_init: Literal["random"] | None = None
    quantization: Quantization | None = None
    cga: Cga | None = None
    remedy: Remedy | None = None
    parent: str | None = None
    threads: int

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
            ("studies", self.studies, {"reference", EVERYTHING} | RULES),
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
            self._check_measured(where, study, study.variants)
            rates = study.learning_rates
            if rates is not None and (rates not in self.studies or self.studies[rates].sweep_lr is None):
                swept = [other for other, spec in self.studies.items() if spec.sweep_lr]
                raise ValueError(f"{where}.learning_rates: {unknown('study with sweep_lr', rates, swept)}")
            for group, grid in study.groups.items():
                self._check_group(f"{where}.groups.{group}", group, grid)
                if f"{name}-{group}" in self.studies:
                    raise ValueError(
                        f"{where}.groups: '{group}' would be asked for as {name}-{group}, which is a study"
                    )
            if study.sweep_lr is not None:
                for listed in study.variants:
                    if listed != TEACHER and self.variants[listed].parent is not None:
                        raise ValueError(f"{where}.sweep_lr cannot try '{listed}', an annealed variant: leave it out")
                for taken in sorted(set(self.variant_names(name)) & set(self.variants)):
                    raise ValueError(f"{where}.sweep_lr makes a variant '{taken}': give your own another name")
        return self

    def _check_measured(self, where: str, grid: Grid, variants: list[str]) -> None:
        if grid.measure and all(self.variants[name].parent is not None for name in variants if name != TEACHER):
            raise ValueError(
                f"{where}.measure: annealed variants are not measured, and there is no other: leave it out"
            )

    def _check_group(self, where: str, name: str, group: Group) -> None:
        if name in _BESIDE_GROUPS | RULES | set(self.studies):
            raise ValueError(f"{where}: '{name}' is a reserved name, or a study's; choose another")
        for kind, names, known in (
            ("model", group.models or [], self.models),
            ("variant", group.variants, self.variants),
        ):
            for listed in names:
                if listed not in known:
                    raise ValueError(f"{where}.{kind}s: {unknown(kind, listed, known)}")
        self._check_measured(where, group, group.variants)

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
        listed = [*spec.variants, *(name for group in spec.groups.values() for name in group.variants)]
        names = list(dict.fromkeys(name for name in listed if name != TEACHER))
        if spec.sweep_lr is None:
            parents = [self.variants[name].parent for name in names]
            return [*names, *(parent for parent in dict.fromkeys(parents) if parent and parent not in names)]
        return [f"{name}-lr{rate:g}" for name in names for rate in spec.sweep_lr.qat]

    def model_names(self, study: str) -> list[str]:
        """Names of the models of the study and its groups."""
        spec = self.study_named(study)
        return list(dict.fromkeys([*spec.models, *(name for g in spec.groups.values() for name in g.models or [])]))

    def bit_widths(self, study: str) -> list[str]:
        """Bit widths of the study and its groups, that of full precision last."""
        spec = self.study_named(study)
        widths = [*spec.bits, *(bits for group in spec.groups.values() for bits in group.bits or [])]
        return list(dict.fromkeys([*widths, FULL_PRECISION]))

    def teacher_names(self, study: str) -> list[str]:
        """Names of the study's full-precision runs: the teacher, and those of a learning-rate sweep."""
        spec = self.study_named(study)
        rates = spec.sweep_lr.teacher if spec.sweep_lr and TEACHER in spec.variants else []
        return [TEACHER, *(f"{TEACHER}-lr{rate:g}" for rate in rates)]

    def view(self, study: str, group: str | None) -> "Params":
        """The same parameters where the study has the grid of one of its groups, and no groups; None: its main grid.

        Raises:
            UserError: the study has no such group; names the nearest one.
        """
        spec = self.study_named(study)
        changes: dict[str, Any] = {"groups": {}}
        if group is not None:
            if group not in spec.groups:
                raise unknown(f"group of study '{study}':", group, spec.groups)
            chosen = spec.groups[group]
            changes |= {"variants": chosen.variants, "compare": chosen.compare, "measure": chosen.measure}
            changes |= {key: own for key in ("models", "bits", "seeds") if (own := getattr(chosen, key)) is not None}
        return self.model_copy(update={"studies": self.studies | {study: spec.model_copy(update=changes)}})

    def trained(self, study: str) -> list[Run]:
        """The runs of the study's main grid that no annealing continued: those that are measured further."""
        return [run for run in self.runs(study) if run.bits != FULL_PRECISION and not self.variant(run.variant).parent]

    def bands(self, study: str) -> dict[str, float]:
        """Boundary range in code steps of each variant of the main grid that is annealed with one."""
        annealed = {name: self.variants[name].cga for name in self.study_named(study).variants if name in self.variants}
        return {name: cga.boundary_range for name, cga in annealed.items() if cga and cga.boundary_range is not None}

    def all_runs(self, study: str) -> list[Run]:
        """The runs of the study's main grid and of all its groups, each once."""
        grids = [None, *self.study_named(study).groups]
        return list(dict.fromkeys(run for group in grids for run in self.view(study, group).runs(study)))

    def published(self, run: Run) -> list[Path]:
        """Every file that the run publishes."""
        annealed = run.bits != FULL_PRECISION and self.variant(run.variant).parent is not None
        return [*run.files.published, *([run.files.annealing] if annealed else [])]

    def runs(self, study: str) -> list[Run]:
        """The runs of the study's main grid, in order: model, bits, variant, seed."""
        spec = self.study_named(study)
        swept = [name for name in self.teacher_names(study) if name != TEACHER]
        listed = self.variant_names(study) if spec.sweep_lr else [name for name in spec.variants if name != TEACHER]
        grid = [(FULL_PRECISION, name) for name in swept] + [(bits, name) for bits in spec.bits for name in listed]
        return [Run(study, m, bits, name, seed) for m in spec.models for bits, name in grid for seed in spec.seeds]

    def keeping(self, study: str, *, resume_across_code: bool = False) -> Keeping:
        """How the study's runs keep their state."""
        spec = self.study_named(study)
        return Keeping(spec.checkpoint_seconds, spec.rerun_on_code, resume_across_code)

    def check(self, run: Run) -> None:
        """Raise :class:`UserError` with the nearest right name where a coordinate of the run does not exist."""
        self.study_named(run.study)
        if run.seed >= SEEDS:
            raise UserError(f"seed {run.seed} of {run} is too large; it should be less than {SEEDS}")
        models, bits = self.model_names(run.study), self.bit_widths(run.study)
        if run.model not in models:
            raise unknown(f"model of study '{run.study}':", run.model, models)
        if run.bits not in bits:
            raise unknown(f"bits of study '{run.study}':", run.bits, bits)
        names = self.teacher_names(run.study) if run.bits == FULL_PRECISION else self.variant_names(run.study)
        if run.variant not in names:
            if run.variant in self.variants and run.bits != FULL_PRECISION and not self.studies[run.study].sweep_lr:
                raise UserError(
                    f"variant '{run.variant}' stands in no list of study '{run.study}' at {run.bits}; "
                    f"add it to studies.{run.study}.variants, or to those of a group"
                )
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
            dead_biases=source.fidelity.dead_biases,
            learn_step=source.learn_step,
            clipped_gradient=source.clipped_gradient,
        )
        qat = _with_lr(recipe.qat, source.lr)
        taught: dict[str, Any] = {
            # What is stored is the output in evaluation mode.
            "teacher_once": recipe.teacher_once and source.fidelity.teacher_mode == "eval",
            "teacher_mode": "train" if source.fidelity.teacher_mode == "train" else None,
        }
        if variant.parent is None:
            return RunConfig(
                phase="qat",
                train=qat,
                calibration_batches=recipe.calibration_batches,
                attention_init="random" if source.fidelity.attention_init == "random" else None,
                quantization=quantization,
                remedy=variant.remedy,
                **taught,
                **common,
            )
        rate = variant.lr or recipe.cga.lr or qat.min_lr
        train = qat.model_copy(
            update={"lr": rate, "min_lr": rate, "steps": recipe.cga.steps, "warmup": 0.0, "constant_steps": 0}
        )
        assert variant.cga is not None
        cga = variant.cga
        if cga.frozen == "confident" and cga.freeze_qk is None:
            cga = cga.model_copy(update={"freeze_qk": source.fidelity.cga_qk == "still"})
        return RunConfig(
            phase="cga",
            train=train,
            quantization=quantization,
            cga=cga,
            parent=variant.parent,
            **taught,
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
