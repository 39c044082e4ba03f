"""What is quantized, how, and to how many bits."""

import warnings
from dataclasses import dataclass
from textwrap import fill
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core.core_schema import CoreSchema, no_info_after_validator_function

from ofq.config.section import Strict, later
from ofq.runs.registry import Entry, Kind, find, registered

BitWidth = Annotated[int, Field(ge=2, le=8)]
FLOAT = 32
"""Bits of activations that are not quantized."""


def _input_bits(bits: int) -> int:
    if not (2 <= bits <= 8 or bits == FLOAT):
        raise ValueError(f"activations have 2 to 8 bits, or {FLOAT} for none that are quantized, not {bits}")
    return bits


InputBits = Annotated[int, AfterValidator(_input_bits)]


@dataclass(frozen=True)
class ClassName:
    """What a name that stands for a class of a kind may be: a registered one, or ``module:Class``."""

    kind: Kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(lambda name: find(self.kind, name).name, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        names = {"enum": list(registered(self.kind)), "type": "string"}
        return {"anyOf": [names, {"pattern": "^[^:]+:[^:]+$", "type": "string"}]}


class Switches(Strict):
    """What a variant says of the quantization of its blocks; the bits come from the run."""

    weight: Annotated[str, ClassName("quantizer")] = Field(
        "statsq",
        description="weights of the blocks: StatsQ (step = a statistic of the row), LSQ (learned step, levels at whole "
        "steps), LSQ on StatsQ's grid (levels at half steps), `rms` (another statistic, QuEST's) or `nagel` (the "
        "learned step of Nagel et al.); or `module:Class` of your own. A variant without a parent names it",
    )
    learn_step: bool = Field(
        True, description="learned steps of weights learn; false: they stay where calibration put them"
    )
    clipped_gradient: Literal["zero", "identity"] = Field(
        "zero",
        description="gradient of LSQ weights beyond the outermost levels: none, or as if they were not clipped, as "
        "StatsQ's always is",
    )
    factor: Annotated[float, Field(gt=0, le=100)] = Field(
        2.0, description="width of StatsQ's step, factor*mean|w|/2^(bits-1) of the row; 2 is the paper's"
    )
    start: Annotated[float, Field(gt=0, le=100)] = Field(
        1.0, description="first step of LSQ weights, in units of that to which calibration would set it"
    )
    gradient_mask: bool = Field(
        False,
        description="gradient of `rms` weights that are clipped by more than half a step: true, none, as in QuEST; "
        "false, as if they were not clipped",
    )
    fit: Literal["mse", "minmax"] = later(
        "mse",
        "first step of `nagel` weights: of 100 the one with the least squared error, or that of the largest weight",
    )
    gradient_scale: bool = later(
        False,
        "multiply the gradient of the step of `nagel` weights by 1/sqrt(largest code * weights that share the step), "
        "as LSQ does",
    )
    weight_axis: Literal["channel", "tensor"] = later(
        "channel", "weights of the blocks have a step for each output channel (row of a matrix), or one for the tensor"
    )
    qkr: bool = Field(False, description="query-key reparameterization: quantize W_q^T W_k of each head, not q and k")

    @property
    def entry(self) -> Entry:
        """The class of the weight quantizer."""
        return find("quantizer", self.weight)

    def check_switches(self) -> None:
        """Raise ValueError if a switch is set that the weight quantizer does not take."""
        for name in OF_QUANTIZERS:
            unset = getattr(self, name) == type(self).model_fields[name].default
            if name not in self.entry.arguments and not unset:
                owners = [owner for owner, entry in registered("quantizer").items() if name in entry.arguments]
                *others, last = owners
                told = f"{', '.join(others)} and {last}" if others else last
                raise ValueError(f"{name} is a switch of {told}: leave it out")
        if self.weight_axis != "channel" and "axis" not in self.entry.arguments:
            raise ValueError(
                f"weight_axis: {self.weight} takes no argument `axis`; give it one, or leave weight_axis out"
            )


OF_QUANTIZERS = ("learn_step", "clipped_gradient", "factor", "start", "gradient_mask", "fit", "gradient_scale")
"""Switches that belong to those weight quantizers whose constructor has an argument of that name."""


class QuantConfig(Switches):
    """The settings by which :func:`ofq.quant.quantize_model` quantizes a model.

    Fields, with their defaults:

    FIELDS

    Raises:
        pydantic.ValidationError: a field is unknown or its value is not allowed; names the field.
    """

    weight_bits: BitWidth = Field(2, description="bits of the weights of the blocks")
    input_bits: InputBits = Field(
        2,
        description="bits of the activations of the blocks; 32: no activation is quantized, those of the edges neither",
    )
    dead_biases: bool = Field(
        False,
        description="add the biases behind the key quantizer and behind the query-key product's, which softmax "
        "cancels; only the released code has them",
    )
    map_steps: Literal["token", "column"] = Field(
        "token",
        description="which tokens of a map share a learned step in the MLPs and patch mergings of a Swin transformer: "
        "none, or those of a column, as in the released code",
    )
    merging_bias: bool = Field(
        False,
        description="add a bias, random at first, to the patch mergings of a Swin transformer, which have none; only "
        "the released code has it",
    )
    edge_bits: BitWidth = Field(8, description="bits of weights and inputs of the first and the last layer, always LSQ")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.check_switches()
        if self.weight == "statsq" and self.weight_bits > 4:
            warnings.warn(
                f"weight_bits={self.weight_bits}: StatsQ clips at {self.factor:g}*mean|w| whatever the bits, so "
                "clipping dominates its error above 4 bits; consider weight='lsq'",
                stacklevel=3,
            )
        return self


QuantConfig.__doc__ = (QuantConfig.__doc__ or "").replace(
    "FIELDS",
    "\n    ".join(
        fill(f"{name} = {field.default!r}: {field.description}", 110, subsequent_indent=" " * 8)
        for name, field in QuantConfig.model_fields.items()
    ),
)
