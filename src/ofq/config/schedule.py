"""How long a phase of training takes, and at which learning rate: in optimizer steps, or in epochs.

This is code that a run executes, unlike the sections beside it: it turns epochs into steps.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ofq.config.section import Strict, later
from ofq.config.settings import LearningRate

PositiveInt = Annotated[int, Field(gt=0, le=10**9)]
Epochs = Annotated[int, Field(gt=0, le=10**6)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
LowestRate = Annotated[float, Field(ge=0, le=1)]
_EVALUATIONS, _WARMUP_LR = 12, 1e-6


class Schedule(Strict):
    """Learning rates of a phase over steps or epochs: a linear warm-up, a cosine, a constant tail.

    In steps the rate changes at every step; in epochs it changes after each, as in timm's scripts.
    """

    optimizer: Literal["adamw", "sgd"] = later(
        "adamw",
        description="of the weights. `adamw` has the quantizers' parameters too; beside `sgd` these have an Adam of "
        "their own, at a constant rate and without weight decay, as in Nagel et al.",
    )
    lr: LearningRate = Field(description="peak learning rate")
    min_lr: LowestRate = Field(description="learning rate at the end of the cosine; that of `lr` holds it constant")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        0.05,
        description="of adamw none on vectors and biases; of sgd, where it must be given, on all but quantizers, as in "
        "the released code of Nagel et al.",
    )
    momentum: Fraction = later(0.9, description="of sgd")
    quantizer_lr: LearningRate = later(1e-5, description="learning rate of the quantizers' own Adam, beside sgd")
    batch_size: PositiveInt = Field(description="images a step")
    steps: PositiveInt | None = Field(
        None, description="optimizer steps, warm-up and constant tail included; or epochs, one of the two"
    )
    warmup: Fraction = Field(0.0, description="share of the steps over which the learning rate rises linearly")
    constant_steps: Annotated[int, Field(ge=0, le=10**9)] = Field(
        0, description="last steps at the constant lowest rate"
    )
    evaluations: PositiveInt = later(
        _EVALUATIONS,
        description="least number of progress lines, curve points and oscillation records of a run, evenly spread over "
        "its steps",
    )
    epochs: Epochs | None = later(
        None,
        description="passes over the training images, warm-up and constant tail included; then the rate changes once "
        "an epoch, as in timm's scripts",
    )
    warmup_epochs: Annotated[int, Field(ge=0, le=10**6)] = later(
        0, description="first epochs, over which the learning rate rises"
    )
    constant_epochs: Annotated[int, Field(ge=0, le=10**6)] = later(
        0, description="last epochs at the constant lowest rate"
    )
    evaluate_every: Epochs = later(
        1,
        description="epochs from one evaluation, curve point and oscillation record to the next",
    )
    warmup_lr: LearningRate = later(
        _WARMUP_LR,
        description="learning rate from which it rises",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("steps or epochs should be given, one of the two")
        in_steps = {"warmup": 0.0, "constant_steps": 0, "evaluations": _EVALUATIONS}
        in_epochs = {"warmup_epochs": 0, "constant_epochs": 0, "evaluate_every": 1}
        unit, strange = ("steps", in_epochs) if self.epochs is None else ("epochs", in_steps)
        for name in (name for name, default in strange.items() if getattr(self, name) != default):
            raise ValueError(f"{name} should be left out of a recipe in {unit}")
        if self.optimizer == "sgd" and "weight_decay" not in self.model_fields_set:
            raise ValueError("weight_decay is missing: sgd has no default; 2.5e-5 is that of Nagel et al.")
        for name in ("momentum", "quantizer_lr") if self.optimizer != "sgd" else ():
            if name in self.model_fields_set:
                raise ValueError(f"{name} should be left out: it belongs to optimizer: sgd")
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}")
        if not self.min_lr and (self.constant_steps or self.constant_epochs):
            raise ValueError(f"min_lr 0 leaves constant {unit} in which nothing is trained: leave them out")
        if self.steps is not None and self.constant_steps + self.warmup * self.steps >= self.steps:
            raise ValueError("constant_steps and warmup leave no step for the cosine")
        if self.epochs is not None and self.constant_epochs + self.warmup_epochs >= self.epochs:
            raise ValueError("constant_epochs and warmup_epochs leave no epoch for the cosine")
        return self

    def held(self, lr: float, steps: int | None, epochs: int | None = None) -> Self:
        """Return the phase with the given number of steps, or of epochs, at one learning rate."""
        length = {"steps": steps, "warmup": 0.0, "constant_steps": 0}
        length |= {"epochs": epochs, "warmup_epochs": 0, "constant_epochs": 0}
        return self.model_copy(update={"lr": lr, "min_lr": lr, **length})

    def for_images(self, count: int) -> Self:
        """Return the phase with its number of steps, for so many training images; the last part of an epoch is left.

        A phase in steps is returned as it is.
        """
        if self.epochs is None:
            return self
        # A batch that is larger than the data is refused where it is taken.
        return self.model_copy(update={"steps": self.epochs * max(1, count // self.batch_size)})

    @property
    def length(self) -> int:
        """Its number of optimizer steps, which a phase in epochs has :meth:`for_images`."""
        assert self.steps is not None
        return self.steps

    @property
    def unit(self) -> int:
        """Steps from one change of the learning rate to the next."""
        return self.length // self.epochs if self.epochs else 1

    @property
    def interval(self) -> int:
        """Steps from one evaluation to the next."""
        return self.evaluate_every * self.unit if self.epochs else max(1, self.length // self.evaluations)
