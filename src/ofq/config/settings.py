"""The sections of ``params.yaml`` that make up a run: what each may hold, and what contradicts itself.

How phases are trained is in :mod:`ofq.config.recipes`, studies, which are grids of runs, in
:mod:`ofq.config.studies`; references between sections are checked in
:mod:`ofq.config.params`; the settings of one run are resolved in :mod:`ofq.config.resolve`.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from ofq.config.quant_config import ClassName, Switches
from ofq.config.section import Strict, later
from ofq.errors import unknown
from ofq.runs.paths import LOW_BITS
from ofq.runs.registry import Entry, find

# A name is part of file names, which may have 255 bytes.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]
Bits = Annotated[str, Field(pattern=LOW_BITS)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
ImageCount = Annotated[int, Field(gt=0, le=10**9)]

FROM_FOLDERS = ("imagefolder", "imagenet")
"""Data sets of image files, one folder a class."""

_GIVEN_BY = {
    **dict.fromkeys(("img_size", "in_chans", "num_classes"), "the data"),
    **dict.fromkeys(("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"), "training"),
    **dict.fromkeys(("pretrained_strict", "pretrained_filter_fn", "pretrained_model_args", "cache_dir"), "training"),
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


def _scalar_or_list(value: Any) -> Any:
    if isinstance(value, list) and value and all(type(each) is int for each in value):
        return value
    if isinstance(value, list):
        raise ValueError("Input should be a list of whole numbers, one at least")
    return _scalar(value)


Scalar = int | float | bool | str
# Keyword arguments of a constructor: a remedy's, or a timm model's, which may have a number for each of its stages.
Arguments = dict[str, Annotated[Scalar, BeforeValidator(_scalar)]]
ModelArguments = dict[str, Annotated[Scalar | list[int], BeforeValidator(_scalar_or_list)]]


class Data(Strict):
    """Where a study's images come from and what it is evaluated on."""

    name: Annotated[Text, ClassName("reader")] = Field(
        description="data set, or `module:Class` for a reader of your own in a file beside params.yaml"
    )
    root: Text | None = Field(
        None,
        description="directory of its files; where it is left out data/<name>, or data/<module>; digits needs none",
    )
    called: Text | None = later(
        None,
        description="what tables and run.json call the images where they are not quite those of the name: another copy "
        "of them, a part",
    )
    evaluate: Literal["test", "validation"] = Field(
        "test",
        description="'validation' holds out a sixth of the training images and never touches the test set: "
        "the split on which hyper-parameters are chosen",
    )
    train_images: ImageCount | None = later(
        None, description="how many of the training images are taken, evenly spread over all; null: all of them"
    )
    evaluation_images: ImageCount | None = later(None, description="how many of the evaluation images are taken")
    image_size: Annotated[int, Field(gt=0, le=4096)] | None = later(
        None,
        description="height and width in pixels to which images from folders are resized and cropped; imagefolder "
        "needs it, of imagenet it is 224 where it is left out",
    )
    stream: bool | None = later(
        None,
        description="images from folders are read anew at every step, not held in memory; null: if they would take "
        "more than 512 MiB there; imagenet is always streamed",
    )
    workers: Annotated[int, Field(ge=0, le=256)] | None = later(
        None,
        description="processes that read a run's streamed images; null: one for each processor that it may use but "
        "one, 16 at most; changes no number, so it is no part of a run",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Data":
        for name in () if self.name in FROM_FOLDERS else ("image_size", "stream", "workers"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is for data sets of folders, {' and '.join(FROM_FOLDERS)}: leave it out")
        if self.name == "imagefolder" and self.image_size is None:
            raise ValueError("image_size is missing: the height and width to which imagefolder brings its images")
        if self.name == "imagenet" and self.stream is False:
            raise ValueError("stream: false: imagenet is always streamed; imagefolder can hold images in memory")
        return self

    @property
    def entry(self) -> Entry:
        """The reader's class."""
        return find("reader", self.name)

    @property
    def title(self) -> str:
        """What readers of a table are told that the images are."""
        return self.called or self.name


class Hardware(Strict):
    """Where runs compute, and how exactly."""

    device: Literal["cpu", "cuda"] = Field(default="cpu", description="the processor, or a CUDA card")
    precision: Literal["float32", "tf32", "bf16"] = Field(
        default="float32",
        description="of the products of training: tf32 rounds their factors on the card, bf16 is automatic mixed "
        "precision; quantizers, evaluation, probe and noise compute in float32 in any case",
    )
    compile: bool = Field(
        default=False,
        description="blocks, patch embedding and heads are compiled for training; on the processor that needs a C++ "
        "compiler",
    )
    runs_per_gpu: Annotated[int, Field(gt=0, le=64)] = later(
        1,
        description="runs that share a card at a time; changes no number, so it is no part of a run",
    )
    devices: Annotated[int, Field(gt=0, le=4096)] = later(
        1,
        description="processes of one training, which share each batch equally: each with a card of its own, or with "
        "`threads` threads of the processor; numbers differ by rounding alone, so it is no part of a run",
    )
    images_at_once: Annotated[int, Field(gt=0, le=10**9)] | None = later(
        None,
        description="most images that a process computes at a time; a larger part of a batch is divided, and the "
        "gradients are added; null: all of them; numbers differ by rounding alone, so it is no part of a run",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Hardware":
        if self.devices > 1 and self.runs_per_gpu > 1:
            raise ValueError("devices and runs_per_gpu: a run on several cards shares none; leave one of them out")
        if self.device == "cpu":
            if self.precision != "float32":
                raise ValueError(f"precision {self.precision} needs device: cuda")
            if self.runs_per_gpu != 1:
                raise ValueError("runs_per_gpu needs device: cuda; on the processor snakemake --cores decides")
        return self


PROCESSOR = Hardware()


class ModelSettings(Strict):
    """A timm model: its registered name and what to override when it is built."""

    timm: Text = Field(description="name in timm's registry, such as deit_tiny_distilled_patch16_224")
    arguments: ModelArguments = Field(
        default_factory=dict,
        description="keyword arguments of the constructor, such as embed_dim, or depths of the stages",
    )
    set: ModelArguments = later(
        {},
        description="attributes of its modules that no argument says, by their paths, such as `conv_stem.stride: 1`; "
        "those that change no weight's shape",
    )
    paper_model: Text | None = Field(
        None, description="the paper's model whose published numbers stand beside this one"
    )

    @field_validator("timm")
    @classmethod
    def _without_weights(cls, name: str) -> str:
        bare, dot, tag = name.partition(".")
        if dot and bare.isidentifier():
            raise ValueError(f"'{tag}' names weights, as teacher.pretrained of a recipe does; write {bare}")
        return name

    @field_validator("arguments")
    @classmethod
    def _left_to_the_user(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in sorted(_GIVEN_BY.keys() & values):
            raise ValueError(f"{name} should be left out: {_GIVEN_BY[name]} decides it")
        return values


class Cga(Strict):
    """Confidence-guided annealing, and the controls that continue a run as long without it."""

    frozen: Literal["confident", "nothing", "everything"] = Field(
        "confident",
        description="which weights of the blocks stand still: those outside the band; or, as controls for the further "
        "steps alone, none or all of them",
    )
    boundary_range: Annotated[float, Field(ge=0, lt=0.5)] | None = Field(
        None, description="half-width of the band around each rounding threshold in which weights train, in code steps"
    )
    freeze_qk: bool | None = Field(
        None,
        description="under QKR, hold q.weight and k.weight still; null: as fidelity.cga_qk of the parent says",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Cga":
        if self.frozen == "confident":
            if self.boundary_range is None:
                raise ValueError("boundary_range is missing: 0.005 is the paper's")
        elif self.boundary_range is not None or self.freeze_qk is not None:
            raise ValueError(f"boundary_range and freeze_qk mean nothing where {self.frozen} is frozen: leave them out")
        return self


class Fidelity(Strict):
    """One switch for each place where the released code differs from the text, as far as a number depends on it."""

    attention_init: Literal["pretrained", "random"] = Field(
        default="pretrained",
        description="'random': qkv and proj of each attention start from random numbers (under QKR proj alone), not "
        "from the teacher's weights",
    )
    cga_qk: Literal["still", "free"] = Field(
        default="still", description="under QKR, whether q.weight and k.weight train freely while the run is annealed"
    )
    teacher_mode: Literal["eval", "train"] = Field(
        default="eval",
        description="'train': of a teacher with two heads the class head alone teaches, not the mean of both",
    )
    dead_biases: bool = Field(
        default=False, description="biases behind the key quantizer and the query-key product's, which softmax cancels"
    )
    map_steps: Literal["token", "column"] = Field(
        default="token",
        description="of Swin: in MLPs and patch mergings each token of a map has a learned step, or each column",
    )
    merging_bias: bool = Field(
        default=False, description="of Swin: a bias, random at first, of the patch mergings, which have none"
    )


_PRESETS = {
    "as_described": Fidelity(),
    "as_released": Fidelity(
        attention_init="random",
        cga_qk="free",
        teacher_mode="train",
        dead_biases=True,
        map_steps="column",
        merging_bias=True,
    ),
}


def _preset(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in _PRESETS:
        raise ValueError(f"{unknown('preset', value, _PRESETS)}; it should be one of the two, or a mapping of switches")
    return _PRESETS[value]


class RemedySettings(Strict):
    """What calms oscillation during quantization-aware training."""

    name: Annotated[Text, ClassName("remedy")] = Field(
        description="`dampening`, `freezing`, `holding`, or `module:Class` for a class of your own in a file beside "
        "params.yaml"
    )
    arguments: Arguments = Field(
        default_factory=dict, description="keyword arguments of the class's constructor, such as `weight`"
    )

    @property
    def entry(self) -> Entry:
        """The remedy's class."""
        return find("remedy", self.name)


class Variant(Switches):
    """A named set of switches. One with a ``parent`` continues the parent's finished run."""

    parent: Name | None = Field(None, description="variant whose finished run this one anneals")
    cga: Cga | None = Field(None, description="confidence-guided annealing, for a variant with a parent")
    remedy: RemedySettings | None = Field(
        None, description="what acts during quantization-aware training, for a variant without a parent"
    )
    fidelity: Annotated[
        Fidelity,
        BeforeValidator(_preset, json_schema_input_type=Literal["as_described", "as_released"] | Fidelity),
    ] = Field(
        "as_described",
        validate_default=True,
        description="where the text and the released code differ: `as_described`, `as_released`, or single switches of "
        "the latter",
    )
    lr: LearningRate | None = Field(None, description="peak learning rate in place of the recipe's")

    @property
    def step_learns(self) -> bool:
        """Whether the steps of the weights are parameters that train."""
        return self.learn_step and "learn_step" in self.entry.arguments

    @model_validator(mode="after")
    def _consistent(self) -> "Variant":
        if self.parent is None:
            if "weight" not in self.model_fields_set:
                raise ValueError("weight is missing: name a weight quantizer, or a parent to continue")
            self.check_switches()
            if self.cga is not None:
                raise ValueError("cga needs a parent: annealing continues a finished run")
        else:
            if self.cga is None:
                raise ValueError("parent without cga: say how the parent's run is continued")
            for name in (*Switches.model_fields, "fidelity"):
                if name in self.model_fields_set:
                    raise ValueError(f"{name} of an annealed variant comes from its parent: leave it out")
            if self.remedy is not None:
                raise ValueError("remedy acts during quantization-aware training: name it with the parent")
        return self
