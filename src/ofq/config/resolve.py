"""The settings of one run, resolved from ``params.yaml``."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer

from ofq.config.grid import check_run
from ofq.config.params import Params
from ofq.config.quant_config import FLOAT, QuantConfig, Switches
from ofq.config.recipes import UNCHANGED, Augmentation, Pretrained, TrainingRecipe
from ofq.config.section import Strict, later
from ofq.config.settings import PROCESSOR, Cga, Data, Fidelity, Hardware, ModelSettings, RemedySettings
from ofq.runs.paths import TEACHER, Run
from ofq.runs.registry import family_of


@dataclass(frozen=True)
class Keeping:
    """How a run is kept, resumed and placed. It changes no number but by rounding, so it is not part of the run.

    Attributes:
        checkpoint_seconds: least time from one checkpoint to the next.
        rerun_on_code: the study's setting: whether other code runs everything again.
        resume_across_code: the caller's choice to resume from a state that other code saved.
        runs_per_gpu: the study's setting: how many runs share a card.
        workers: the study's setting: how many processes read streamed images.
        devices: the study's setting: how many processes train one run.
        images_at_once: the study's setting: how many images each of them computes at a time, None for all.
    """

    checkpoint_seconds: float = 30.0
    rerun_on_code: bool = True
    resume_across_code: bool = False
    runs_per_gpu: int = 1
    workers: int | None = None
    devices: int = 1
    images_at_once: int | None = None

    @property
    def across_code(self) -> bool:
        """Whether a run resumes from a state that other code saved."""
        return self.resume_across_code or not self.rerun_on_code


KEEPING = Keeping()

_PLACING: dict[str, Any] = {"runs_per_gpu": 1, "devices": 1, "images_at_once": None}
"""Settings of hardware that are no part of a run, with their defaults."""


def _asked(quantization: QuantConfig) -> dict[str, Any]:
    asked = quantization.model_dump(mode="json", exclude_unset=True)
    return {name: asked[name] for name in ("weight", "weight_bits", "input_bits", "qkr", "dead_biases", *asked)}


# Switches that nobody set are left out, so that one which is added later changes no earlier run.
_Quantization = Annotated[QuantConfig, PlainSerializer(_asked)]


class _Run(Strict):
    """What the three kinds of run have in common. Their fields stand in the order in which run.json shows them."""

    phase: str
    data: Data
    model: ModelSettings
    seed: int
    train: TrainingRecipe | None
    hardware: Hardware = Field(PROCESSOR, exclude_if=lambda hardware: hardware == PROCESSOR)

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules of the classes that its settings name; part of the digest of its code."""
        quantization, remedy = getattr(self, "quantization", None), getattr(self, "remedy", None)
        student = [quantization.entry, family_of(self.model.timm)] if quantization else []
        return tuple(entry.module for entry in [*student, *([remedy.entry] if remedy else [])])

    @property
    def augment(self) -> Augmentation:
        """How its training images are changed."""
        return self.train.augment if self.train else UNCHANGED

    def shown(self) -> dict[str, Any]:
        """Return the settings as run.json and event logs show them: what nobody asked for is left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def canonical(self) -> str:
        """Return stable JSON, which Snakemake compares to decide whether settings changed."""
        return json.dumps(self.shown(), sort_keys=True)

    def key(self, code: str) -> str:
        """Return the name of the resumable state: configuration and code digest in 12 hexadecimal digits."""
        return hashlib.sha256(f"{self.canonical()}\n{code}".encode()).hexdigest()[:12]


class TeacherConfig(_Run):
    """Everything that the training of one teacher depends on, and nothing else."""

    phase: Literal["teacher"] = "teacher"
    train: TrainingRecipe | None = Field(None, description="None where the weights are given")
    pretrained: bool | str | None = Field(None, description="true: timm's weights; or a file of them")
    threads: int


class QatConfig(_Run):
    """Everything that one quantization-aware training depends on, and nothing else."""

    phase: Literal["qat"] = "qat"
    train: TrainingRecipe
    calibration_batches: int
    teacher_once: bool
    teacher_mode: Literal["train"] | None = None
    distillation: bool = later(True, "whether the teacher's output is learned from")
    attention_init: Literal["random"] | None = None
    quantization: _Quantization
    remedy: RemedySettings | None = None
    threads: int


class AnnealConfig(_Run):
    """Everything that the annealing of one finished run depends on, and nothing else."""

    phase: Literal["cga"] = "cga"
    train: TrainingRecipe
    teacher_once: bool
    teacher_mode: Literal["train"] | None = None
    distillation: bool = later(True, "whether the teacher's output is learned from")
    quantization: _Quantization
    cga: Cga
    parent: str
    threads: int


StudentConfig = QatConfig | AnnealConfig


RunConfig = Annotated[TeacherConfig | QatConfig | AnnealConfig, Field(discriminator="phase")]


def keeping(params: Params, study: str) -> Keeping:
    """Return how a study's runs keep their state."""
    spec = params.study_named(study)
    placed = {name: getattr(spec.hardware, name) for name in _PLACING}
    return Keeping(spec.checkpoint_seconds, spec.rerun_on_code, **placed, workers=spec.data.workers)


def resolve(params: Params, run: Run) -> RunConfig:
    """Return everything that a run depends on.

    Raises:
        UserError: a coordinate of the run does not exist; names the nearest one.
    """
    check_run(params, run)
    study = params.studies[run.study]
    recipe = params.recipes[study.recipe_of(run.model, run.bits)]
    # The files' folder, how many processes read them, the published numbers shown beside a model and how many runs
    # share a card change no number, and how a batch is divided changes the last bits: they are not part of a run. It
    # goes on with other devices.
    common: dict[str, Any] = {
        "data": study.data.model_copy(update={"root": None, "workers": None}),
        "model": params.models[run.model].model_copy(update={"paper_model": None}),
        "seed": run.seed,
        "threads": study.threads,
        "hardware": study.hardware.model_copy(update=_PLACING),
    }
    if run.full_precision:
        if isinstance(recipe.teacher, Pretrained):
            given = recipe.teacher.pretrained
            named = given.replace("{model}", run.model) if isinstance(given, str) else given
            return TeacherConfig(pretrained=named, **common)
        rate = float(run.variant.rsplit("-lr", 1)[1]) if run.variant != TEACHER else None
        return TeacherConfig(train=_with_lr(recipe.teacher, rate), **common)
    variant, source = params.variant(run.variant), params.source(run.variant)
    widths = run.widths
    assert widths.weights is not None  # no study lists other bits
    quantization = QuantConfig(
        **source.model_dump(include=source.model_fields_set & set(Switches.model_fields) | {"qkr"}),
        weight_bits=widths.weights,
        input_bits=widths.inputs or FLOAT,
        dead_biases=source.fidelity.dead_biases,
        **_of_family(common["model"].timm, source.fidelity),
    )
    qat = _with_lr(recipe.qat, source.lr)
    taught: dict[str, Any] = {
        # The stored output is that of evaluation mode.
        "teacher_once": recipe.distillation and recipe.teacher_once and source.fidelity.teacher_mode == "eval",
        "teacher_mode": "train" if recipe.distillation and source.fidelity.teacher_mode == "train" else None,
        "distillation": recipe.distillation,
    }
    if variant.parent is None:
        return QatConfig(
            train=qat,
            calibration_batches=recipe.calibration_batches,
            attention_init="random" if source.fidelity.attention_init == "random" else None,
            quantization=quantization,
            remedy=variant.remedy,
            **taught,
            **common,
        )
    assert variant.cga is not None
    cga = variant.cga
    if cga.frozen == "confident" and cga.freeze_qk is None:
        cga = cga.model_copy(update={"freeze_qk": source.fidelity.cga_qk == "still"})
    train = qat.held(variant.lr or recipe.cga.lr or qat.min_lr, recipe.cga.steps, recipe.cga.epochs)
    return AnnealConfig(train=train, quantization=quantization, cga=cga, parent=variant.parent, **taught, **common)


def _of_family(timm_name: str, fidelity: Fidelity) -> dict[str, Any]:
    """Return those switches of a model's family that are not at their defaults; other families know nothing of them."""
    switches = {name: getattr(fidelity, name) for name in family_of(timm_name).presets.get("switches", [])}
    return {name: value for name, value in switches.items() if value != Fidelity.model_fields[name].default}


def given_weights(config: RunConfig) -> list[Path]:
    """Return the file from which a run has its weights, if it is a teacher that is not trained and has a file."""
    given = config.pretrained if isinstance(config, TeacherConfig) else None
    return [Path(given)] if isinstance(given, str) else []


def _with_lr(phase: TrainingRecipe, lr: float | None) -> TrainingRecipe:
    """Return the phase at another peak rate; the lowest rate keeps its ratio to the peak."""
    return phase if lr is None else phase.model_copy(update={"lr": lr, "min_lr": phase.min_lr * lr / phase.lr})
