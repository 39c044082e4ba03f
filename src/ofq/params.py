"""Typed parameters: load ``params.yaml``, validate it, resolve one run to a :class:`RunConfig`.

The Snakefile and the command line both come through here, so a mistake in ``params.yaml`` is one
line with the nearest right name wherever it is met. ``params.schema.json``, which editors use, is
generated from these types (``python -m ofq schema``).
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from ofq.errors import UserError, unknown
from ofq.paths import FULL_PRECISION, PARAMS, SEEDS, TEACHER, Run
from ofq.provenance import find_class
from ofq.yaml_model import read_model

# A name is part of file names, which may have 255 bytes.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]
PositiveInt = Annotated[int, Field(gt=0, le=10**9)]
Bits = Annotated[str, Field(pattern=r"^w[2-8]a[2-8]$")]
Fraction = Annotated[float, Field(ge=0, lt=1)]
LearningRate = Annotated[float, Field(gt=0, le=1)]

# Paths of a study's runs begin with a model's name, beside these.
_BESIDE_MODELS = {"data", "report", "mlflow.json"}
# Snakemake knows rules and studies by one kind of name.
RULES = {"all", "data", "teacher", "qat", "cga", "probe", "tables", "figures", "sweep", "track"}
# Remedies of the package by their short names.
_REMEDIES = {
    "dampening": "ofq.remedies.dampening:Dampening",
    "freezing": "ofq.remedies.freezing:IterativeFreezing",
}
_GIVEN_BY = {
    "the data": {"img_size", "in_chans", "num_classes"},
    "training": {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"},
}


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("Input should be printable text")
    return value


Text = Annotated[str, Field(min_length=1), AfterValidator(_printable)]


def _scalar(value: Any) -> Any:
    if not isinstance(value, int | float | str):
        raise ValueError("Input should be a number, text, true or false")
    return value


class _Strict(BaseModel):
    # Strict: true is no 1, "3" no 3, and 3.0 no whole number.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Data(_Strict):
    """Where a study's images come from and what it is evaluated on."""

    name: Literal["digits", "fashion-mnist", "cifar10", "cifar100"] = Field(description="data set")
    root: Text | None = Field(
        None, description="directory of the downloaded files, data/<name> where it is left out; digits needs none"
    )
    evaluate: Literal["test", "validation"] = Field(
        "test",
        description="'validation' holds out a sixth of the training images and never touches the test set: "
        "the split on which hyper-parameters are chosen",
    )


class Model(_Strict):
    """A timm model: its registered name and what to override when it is built."""

    timm: Text = Field(description="name in timm's registry, such as deit_tiny_distilled_patch16_224")
    arguments: dict[str, Annotated[int | float | bool | str, BeforeValidator(_scalar)]] = Field(
        default_factory=dict, description="keyword arguments of the constructor, such as embed_dim"
    )
    paper_model: Text | None = Field(
        None, description="the paper's model whose published numbers stand beside this one"
    )

    @field_validator("arguments")
    @classmethod
    def _left_to_the_user(cls, values: dict[str, Any]) -> dict[str, Any]:
        for source, names in _GIVEN_BY.items():
            for name in sorted(names & set(values)):
                raise ValueError(f"{name} should be left out: {source} decides it")
        return values


class Phase(_Strict):
    """How one phase (teacher or quantization-aware training) is trained."""

    lr: LearningRate = Field(description="peak learning rate of AdamW")
    min_lr: LearningRate = Field(description="learning rate at the end of the cosine")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(0.05, description="of AdamW; none on vectors and biases")
    batch_size: PositiveInt = Field(description="images a step")
    steps: PositiveInt = Field(description="optimizer steps, warm-up and constant tail included")
    warmup: Fraction = Field(0.0, description="share of the steps over which the learning rate rises linearly from 0")
    constant_steps: Annotated[int, Field(ge=0, le=10**9)] = Field(
        0, description="last steps at the constant lowest rate"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Phase":
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}")
        if self.constant_steps + self.warmup * self.steps >= self.steps:
            raise ValueError("constant_steps and warmup leave no step for the cosine")
        return self


class Annealing(_Strict):
    """How annealing continues a finished quantization-aware run: constant rate, optimizer state kept."""

    steps: PositiveInt = Field(description="further optimizer steps")
    lr: LearningRate | None = Field(None, description="constant learning rate; null: the lowest rate of qat")


class Recipe(_Strict):
    """Hyper-parameters of the three phases."""

    teacher: Phase = Field(description="full-precision training")
    qat: Phase = Field(description="quantization-aware training, taught by the teacher")
    cga: Annealing = Field(description="annealing of a finished quantization-aware run")
    calibration_batches: Annotated[int, Field(gt=0, le=10_000)] = Field(
        1, description="training batches that set the learned steps"
    )
    teacher_once: bool = Field(
        True,
        description="the teacher's output on every training image is computed once and shared by all students of its "
        "seed; false: at every step",
    )


class Cga(_Strict):
    """Confidence-guided annealing."""

    boundary_range: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        description="half-width of the band around each rounding threshold in which weights train, in code steps"
    )
    freeze_qk: bool = Field(True, description="under QKR, hold q.weight and k.weight still; the released code does not")


class Remedy(_Strict):
    """What calms oscillation during quantization-aware training."""

    name: Text = Field(
        description="`dampening`, `freezing`, or `module:Class` for a class of your own in a file beside params.yaml"
    )
    arguments: dict[str, Annotated[int | float | bool | str, BeforeValidator(_scalar)]] = Field(
        default_factory=dict, description="keyword arguments of the class's constructor, such as `weight`"
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        module, colon, attribute = name.partition(":")
        if not colon and name not in _REMEDIES:
            raise ValueError(f"{unknown('remedy', name, _REMEDIES)}; a class of your own is named as module:Class")
        if colon and not all(part.isidentifier() for part in [*module.split("."), attribute]):
            raise ValueError(f"'{name}' should be module:Class, such as calm:Calm for the class Calm of calm.py")
        return name

    @property
    def place(self) -> tuple[str, str]:
        """Module and class."""
        module, _, attribute = _REMEDIES.get(self.name, self.name).partition(":")
        return module, attribute


class Variant(_Strict):
    """A named set of switches. One with a ``parent`` continues the parent's finished run."""

    weight: Literal["lsq", "lsq-midrise", "statsq"] | None = Field(None, description="weight quantizer")
    qkr: bool = Field(False, description="query-key reparameterization")
    parent: Name | None = Field(None, description="variant whose finished run this one anneals")
    cga: Cga | None = Field(None, description="confidence-guided annealing, for a variant with a parent")
    remedy: Remedy | None = Field(
        None, description="what acts during quantization-aware training, for a variant without a parent"
    )
    fidelity: Literal["as_described", "as_released"] = Field(
        "as_described", description="'as_released' adds the biases that softmax cancels, as the released code does"
    )
    lr: LearningRate | None = Field(None, description="peak learning rate in place of the recipe's")

    @model_validator(mode="after")
    def _consistent(self) -> "Variant":
        if self.parent is None:
            if self.weight is None:
                raise ValueError("weight is missing: name a weight quantizer, or a parent to continue")
            if self.cga is not None:
                raise ValueError("cga needs a parent: annealing continues a finished run")
        else:
            if self.cga is None:
                raise ValueError("parent without cga: say how the parent's run is continued")
            if self.weight is not None or self.qkr or self.fidelity != "as_described":
                raise ValueError("weight, qkr and fidelity come from the parent: leave them out")
            if self.remedy is not None:
                raise ValueError("remedy acts during quantization-aware training: name it with the parent")
        return self


class LearningRates(_Strict):
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


class Study(_Strict):
    """A grid of runs over one data set."""

    data: Data = Field(description="data set, and which images are evaluated")
    models: list[Name] = Field(min_length=1, description="names under `models`")
    bits: list[Bits] = Field(min_length=1, description="bit widths of weights and activations, such as w2a2")
    variants: list[Name] = Field(min_length=1, description="names under `variants`, in the order of the tables")
    seeds: list[Annotated[int, Field(ge=0, lt=SEEDS)]] = Field(
        min_length=1, description="seeds of the initial weights and of the order of the images"
    )
    recipe: Name = Field(description="name under `recipes`")
    sweep_lr: LearningRates | None = Field(None, description="peak learning rates to compare in this study")
    threads: Annotated[int, Field(gt=0, le=1024)] = Field(
        1, description="CPU threads of one run; part of what a number depends on"
    )
    compile: bool = Field(
        True,
        description="students round in loops that this machine's C compiler makes once, where there is one and threads "
        "is 1; faster, and no number changes by a bit, so an edit reruns nothing",
    )
    checkpoint_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        30.0, description="from one checkpoint to the next, at least; more where saving would take over 2 % of the time"
    )
    rerun_on_code: bool = Field(
        True,
        description="another version of the code runs everything again; false, for long studies: finished runs stay, "
        "unfinished ones go on under the new code, and run.json says so",
    )

    @field_validator("models", "bits", "variants", "seeds")
    @classmethod
    def _each_once(cls, values: list[Any]) -> list[Any]:
        return _no_repeats(values)

    @model_validator(mode="after")
    def _some_runs(self) -> "Study":
        students = [name for name in self.variants if name != TEACHER]
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


class Quantization(_Strict):
    """The switches of :class:`ofq.quant.QuantConfig` that a run uses."""

    weight: Literal["lsq", "lsq-midrise", "statsq"]
    weight_bits: int
    input_bits: int
    qkr: bool
    dead_biases: bool


class RunConfig(_Strict):
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


class Params(_Strict):
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


def _no_repeats(values: list[Any]) -> list[Any]:
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"named twice: {', '.join(repeated)}; name each once")
    return values


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
