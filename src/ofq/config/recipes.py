"""The recipes of ``params.yaml``: how the phases of a study are trained, and how their images are changed."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from ofq.config.schedule import Epochs, Fraction, PositiveInt, Schedule
from ofq.config.section import Strict, later
from ofq.config.settings import LearningRate, Text
from ofq.errors import UserError

RANDAUGMENT = r"^rand(-(m\d{1,2}|n\d{1,2}|p\d(\.\d+)?|mstd\d+(\.\d+)?|mmax\d{1,2}|inc[01]))*$"
Share = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Concentration = Annotated[float, Field(ge=0, le=100)]
LAST = 5
"""Evaluations at the end of a run over which accuracies with and without re-estimated statistics are averaged."""


class Augmentation(Strict):
    """How training images are changed, anew in each epoch; nothing is done where all is left out.

    Order: crop, flip, cutout of images in memory; scale, flip, policy or jitter, erasing of streamed ones. What is
    evaluated, and what `noise` measures, is never changed.
    """

    crop: Annotated[int, Field(ge=0, le=10**4)] = Field(
        default=0,
        description="pixels by which an image is shifted at most, up or down and sideways; black where it is not",
    )
    flip: bool = Field(default=False, description="half of the images are mirrored left to right")
    cutout: Annotated[int, Field(ge=0, le=10**4)] = Field(
        default=0, description="side in pixels of a square of the mean colour, whose middle is anywhere in the image"
    )
    scale: Annotated[tuple[Share, ...], Field(strict=False, min_length=2, max_length=2)] | None = later(
        None,
        description="least and largest share of a streamed image's area that a random crop takes, which is then "
        "resized; null: the crop of evaluation",
    )
    policy: Annotated[str, Field(pattern=RANDAUGMENT)] | None = later(
        None,
        description="timm's RandAugment of streamed images, such as `rand-m9-mstd0.5-inc1`",
    )
    jitter: Probability = later(
        0.0,
        description="strength at which brightness, contrast and saturation of streamed images change; as in timm, "
        "nothing is done where there is a policy",
    )
    erasing: Probability = later(
        0.0,
        description="share of the streamed images in which a rectangle becomes noise",
    )

    @model_validator(mode="after")
    def _of_one_kind(self) -> "Augmentation":
        if self.scale and self.scale[0] > self.scale[1]:
            raise ValueError(f"scale {list(self.scale)} should begin with the lower share")
        if (self.crop or self.cutout) and (self.scale or self.policy or self.jitter or self.erasing):
            raise ValueError(
                "crop and cutout should not stand beside scale, policy, jitter or erasing: those change images in "
                "memory, these streamed ones"
            )
        return self


UNCHANGED = Augmentation()


class TrainingRecipe(Schedule):
    """How one phase (teacher or quantization-aware training) is trained."""

    augment: Augmentation = Field(
        default_factory=Augmentation,
        exclude_if=UNCHANGED.__eq__,
        description="how training images are changed; annealing goes on with that of qat",
    )
    repeats: Annotated[int, Field(gt=0, le=100)] = later(
        1,
        description="how often an image that an epoch takes appears in it, each time changed anew; an epoch keeps its "
        "length. Of two images a, b the order is a b a b, so that neighbours, which are mixed, differ",
    )
    mixup: Concentration = later(
        0.0,
        description="alpha of the Beta distribution of the share that two mixed images have; 0: none are",
    )
    cutmix: Concentration = later(
        0.0,
        description="alpha of the Beta distribution of the area that an image takes from another; beside mixup each "
        "has half of the steps",
    )
    smoothing: Fraction = later(
        0.0,
        description="share of the labels of mixed images that is spread evenly over all classes",
    )
    reestimation_batches: Annotated[int, Field(gt=0, le=10_000)] | None = later(
        None,
        description="of models with batch norms, qat alone: each evaluation is made a second time, with the statistics "
        "of so many training batches in place of the running ones, with which training goes on; null: it is not",
    )

    @model_validator(mode="after")
    def _mixed_as_asked(self) -> "TrainingRecipe":
        if self.smoothing and not (self.mixup or self.cutmix):
            raise ValueError("smoothing should be left out where images are not mixed: labels are not smoothed there")
        if self.batch_size % 2 and (self.mixup or self.cutmix):
            raise ValueError(f"batch_size {self.batch_size} should be even: mixup and cutmix take images in pairs")
        return self

    @model_validator(mode="after")
    def _evaluated_often(self) -> "TrainingRecipe":
        often = min(self.evaluations, self.steps) if self.steps else (self.epochs or 0) // self.evaluate_every
        if self.reestimation_batches and often < LAST:
            raise ValueError(
                f"reestimation_batches compares the last {LAST} evaluations, and there are {often}: raise evaluations, "
                "or lower evaluate_every"
            )
        return self


def _weights(value: Any) -> Any:
    if value is not True and not (isinstance(value, str) and value and value.isprintable()):
        raise ValueError("pretrained should be true, or the name of a file")
    return value


class Pretrained(Strict):
    """Where a teacher that is not trained has its weights from."""

    pretrained: Annotated[bool | str, BeforeValidator(_weights, json_schema_input_type=Literal[True] | Text)] = Field(
        description="true: timm's weights of the model, fetched from the Hugging Face hub; or a file of them, "
        "safetensors or a checkpoint of torch, such as another run's model.safetensors; `{model}` in its name stands "
        "for the model's"
    )


def _kind(value: Any) -> str:
    given = isinstance(value, Pretrained) or (isinstance(value, dict) and "pretrained" in value)
    return "[pretrained]" if given else "[trained]"


Teacher = Annotated[
    Annotated[TrainingRecipe, Tag("[trained]")] | Annotated[Pretrained, Tag("[pretrained]")], Discriminator(_kind)
]


class AnnealingRecipe(Strict):
    """How annealing continues a finished quantization-aware run: constant rate, optimizer state kept."""

    steps: PositiveInt | None = Field(None, description="further optimizer steps; or epochs, as qat has")
    lr: LearningRate | None = Field(None, description="constant learning rate; null: the lowest rate of qat")
    epochs: Epochs | None = Field(None, description="further epochs")


class Recipe(Strict):
    """Hyper-parameters of the three phases."""

    teacher: Teacher = Field(description="full-precision training, or where the weights come from")
    qat: TrainingRecipe = Field(description="quantization-aware training, taught by the teacher")
    cga: AnnealingRecipe = Field(description="annealing of a finished quantization-aware run")
    calibration_batches: Annotated[int, Field(gt=0, le=10_000)] = Field(
        1, description="training batches that set the learned steps"
    )
    distillation: bool = later(
        True,
        description="students learn from the teacher's output and from the labels; false: from the labels alone, and "
        "only start from the teacher's weights",
    )
    teacher_once: bool = Field(
        True,
        description="the teacher's output on every training image is computed once and shared by all students of its "
        "seed; false: at every step",
    )

    @model_validator(mode="after")
    def _of_students(self) -> "Recipe":
        if getattr(self.teacher, "reestimation_batches", None):
            raise ValueError("teacher.reestimation_batches should be left out: it is for qat")
        return self

    @model_validator(mode="after")
    def _in_one_unit(self) -> "Recipe":
        unit, other = ("steps", "epochs") if self.qat.epochs is None else ("epochs", "steps")
        if getattr(self.cga, unit) is None or getattr(self.cga, other) is not None:
            raise ValueError(f"cga should be given in {unit} alone, as qat is")
        if not self.qat.min_lr and self.cga.lr is None:
            raise ValueError("cga.lr is missing: qat ends at a rate of 0, at which nothing is annealed")
        return self

    @model_validator(mode="after")
    def _stored_output_fits(self) -> "Recipe":
        if not self.distillation:
            if "teacher_once" in self.model_fields_set:
                raise ValueError("teacher_once should be left out: without distillation the teacher has no output")
            return self
        changing = {name: getattr(self.qat, name) for name in ("mixup", "cutmix")}
        changing["augment"] = self.qat.augment != UNCHANGED
        for name in (name for name, changes in changing.items() if self.teacher_once and changes):
            raise ValueError(
                f"qat.{name} changes the images at every step, and the teacher's output is stored for unchanged ones: "
                "write teacher_once: false"
            )
        return self


def check_images(augment: Augmentation, *, streamed: bool, stored: bool = False) -> None:
    """Check that images can be changed as a recipe asks.

    Args:
        augment: how.
        streamed: whether images are read from their files at every step, or held in memory.
        stored: whether the teacher's output on them is stored.

    Raises:
        UserError: they cannot, or the output of streamed images should be stored.
    """
    kind, other = ("streamed", "held in memory") if streamed else ("held in memory", "streamed")
    for name in ("crop", "cutout") if streamed else ("scale", "policy", "jitter", "erasing"):
        if getattr(augment, name):
            raise UserError(
                f"augment.{name} is for images that are {other}, and those of this study are {kind}; leave it out, or "
                f"set data.stream: {str(not streamed).lower()} (docs/add-a-data-set.md)"
            )
    if streamed and stored:
        raise UserError(
            "the teacher's output is not stored for streamed images, of which there may be millions; write "
            "teacher_once: false into the recipe"
        )
