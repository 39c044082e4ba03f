"""What is quantized, how, and to how many bits."""

import warnings
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

BitWidth = Annotated[int, Field(ge=2, le=8)]
WeightQuantizer = Literal["lsq", "lsq-midrise", "statsq"]
ClippedGradient = Literal["zero", "identity"]


class QuantConfig(BaseModel):
    """The settings by which :func:`ofq.quant.quantize_model` quantizes a vision transformer.

    Raises:
        pydantic.ValidationError: a field is unknown or its value is not allowed; names the field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    weight: WeightQuantizer = Field(
        "statsq",
        description="weights of the blocks: StatsQ (step = a statistic of the row), LSQ (learned step, levels at whole "
        "steps), or LSQ on StatsQ's grid (levels at half steps)",
    )
    weight_bits: BitWidth = Field(2, description="bits of the weights of the blocks")
    input_bits: BitWidth = Field(2, description="bits of the activations of the blocks")
    qkr: bool = Field(False, description="query-key reparameterization: quantize W_q^T W_k of each head, not q and k")
    dead_biases: bool = Field(
        False,
        description="add the biases behind the key quantizer and behind the query-key product's, which softmax "
        "cancels; only the released code has them",
    )
    learn_step: bool = Field(
        True,
        description="steps of LSQ weights learn; false: they stay where calibration put them. StatsQ has none to learn",
    )
    clipped_gradient: ClippedGradient = Field(
        "zero",
        description="gradient of LSQ weights beyond the outermost levels: none, or as if they were not clipped, as "
        "StatsQ's always is",
    )
    edge_bits: BitWidth = Field(8, description="bits of weights and inputs of the first and the last layer, always LSQ")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.weight == "statsq" and not (self.learn_step and self.clipped_gradient == "zero"):
            raise ValueError("learn_step and clipped_gradient are switches of LSQ weights: not of 'statsq'")
        if self.weight == "statsq" and self.weight_bits > 4:
            warnings.warn(
                f"weight_bits={self.weight_bits}: StatsQ clips at 2*mean|w| whatever the bits, so clipping dominates "
                "its error above 4 bits; consider weight='lsq'",
                stacklevel=3,
            )
        return self
