"""What stands in an exported file beside its tensors: enough to build the model, to feed it, and to know its run."""

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, PositiveInt, model_validator

from ofq.config.quant_config import BitWidth, InputBits, Strict
from ofq.config.settings import ModelSettings

VERSION = 1
"""Of the layout in docs/packed-format.md; a reader refuses every other one."""
MOST_PIXELS = 8192
"""Along a side of an image: nobody means more, and a file from elsewhere may say anything."""

Side = Annotated[int, Field(ge=1, le=MOST_PIXELS)]
Words = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(pattern=r"^\w+(\.\w+)*$", max_length=200)]
"""Of a tensor or a module, as in a state dict; never a path."""


class Images(Strict):
    """What images the model takes, and what is done to one before.

    An image is brought to ``size``, its pixels to [0, 1], then mean and deviation of each channel are taken off.
    ``crop`` is the share of the shorter side that is kept of a photograph; None: it is resized as a whole.
    """

    size: tuple[Side, Side] = Field(strict=False, description="height and width; JSON has no tuples")
    channels: Annotated[int, Field(ge=1, le=1024)]
    mean: list[FiniteFloat]
    std: list[Annotated[FiniteFloat, Field(gt=0)]]
    crop: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Images":
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations for {self.channels} channels")
        return self


class Blocks(Strict):
    """The quantization, as ``QuantConfig`` describes it; ``weight`` is a name only, because its codes are stored."""

    weight: Words
    weight_bits: BitWidth
    input_bits: InputBits
    edge_bits: BitWidth = 8
    qkr: bool = False
    dead_biases: bool = False
    map_steps: Literal["token", "column"] = "token"
    merging_bias: bool = False


class About(Strict):
    """What every exported format says of a model and of the run that it comes from."""

    model: ModelSettings
    classes: Annotated[int, Field(ge=1, le=2**20)]
    class_names: list[Words] | None = None
    images: Images
    quantization: Blocks | None = Field(None, description="none: full precision")
    run: Words = Field(description="study/model/bits/variant/seedN")
    data: Words
    licence: Words = Field(description="of the data, which decides what may be done with weights")
    top1: FiniteFloat | None = Field(None, description="of the run, in percent")
    digests: dict[str, Words] = Field(default_factory=dict, description="of the run's code and of its weights")

    @model_validator(mode="after")
    def _consistent(self) -> "About":
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise ValueError(f"{len(self.class_names)} names of {self.classes} classes")
        return self


class Coded(Strict):
    """Integer codes of one weight: value = step*(code + offset), the step being that of its row."""

    bits: BitWidth
    shape: list[PositiveInt]
    offset: float

    @model_validator(mode="after")
    def _on_a_grid(self) -> "Coded":
        if self.offset not in (0.0, 0.5):
            raise ValueError(f"offset should be 0 or 0.5, not {self.offset}")
        return self


class Rounding(Strict):
    """How one activation is rounded: code = round(clamp((x + before)/step)), value = step*code + after.

    ``axes`` are those that have a step for each index, counted from the last; none: one step for all.
    """

    bits: BitWidth
    signed: bool
    axes: list[Annotated[int, Field(ge=-4, le=3)]]


class Header(About):
    """The header of a packed file."""

    quantization: Blocks
    version: int
    codes: dict[Name, Coded]
    activations: dict[Name, Rounding]
