"""The base of quantizers whose steps are parameters, which calibration makes and state dicts hold."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from ofq.quant.quantizers.base import Quantizer, wide

_Uninitialized: Any = UninitializedParameter  # its stub does not say that it is a Parameter


class UnsetStep(_Uninitialized):  # type: ignore[misc]
    """A step that calibration has not made yet: it holds no numbers, and nothing can be computed with it."""

    _allowed_methods = (
        *_Uninitialized._allowed_methods,
        torch.numel,
        torch.Tensor.numel,
        torch.Tensor.nelement,
        torch.Tensor.element_size,
        torch.Tensor.requires_grad_,
        torch.Tensor.bfloat16,
    )

    @property
    def shape(self) -> torch.Size:
        """Raise RuntimeError: there is none."""
        raise _no_step()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return super().__torch_function__(func, types, args, kwargs)
        except ValueError:
            raise _no_step() from None


class LearnedStepQuantizer(Quantizer):
    """Quantizer whose steps are the vector ``scale``.

    It does not exist until :func:`ofq.quant.calibrate` makes it or a calibrated state dict is loaded.

    Args:
        bits: code width, 2 to 8.
        axis: as in :class:`Quantizer`.
        learn_step: whether the steps learn; if not, they stay as calibrated.

    Attributes:
        floor: a step below it acts as it.

    Raises:
        RuntimeError: on a forward pass before calibration.
    """

    floor = -math.inf

    def __init__(self, bits: int, *, axis: int | tuple[int, ...] | None, learn_step: bool) -> None:
        super().__init__(bits)
        self.axis = axis
        self.learn_step = learn_step
        self.parts = 1  # see set_parts
        # While calibrating: the parameter that gets the step at the end, and statistics, one per batch.
        self._seen: tuple[UnsetStep, list[Tensor]] | None = None
        self.scale: nn.Parameter = UnsetStep(requires_grad=learn_step)

    @abstractmethod
    def statistic(self, x: Tensor) -> Tensor:
        """Return what calibration averages over batches, a vector over the axis with own steps, or a scalar."""

    @abstractmethod
    def first_step(self, statistic: Tensor) -> Tensor:
        """Return the steps at which training starts, a vector like the mean statistic."""

    def step_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """Return the shape in which the vector of steps broadcasts against a tensor.

        Raises:
            RuntimeError: there is no step yet.
            ValueError: the axis has another size than at calibration.
        """
        self._require_scale()
        spread = super().step_shape(shape)
        if torch.Size(spread).numel() != self.scale.numel():
            raise ValueError(
                f"this quantizer was calibrated for {self.scale.numel()} steps along axis {self.axis}; "
                f"the input {tuple(shape)} has {torch.Size(spread).numel()} there"
            )
        return spread

    def gamma(self, shape: torch.Size) -> float | Tensor:
        """Return what the gradient of a step is multiplied by: 1/sqrt(largest code * M), M elements sharing a step."""
        shared = self.parts * shape.numel() / self.scale.numel()  # M
        return (self.levels()[1] * shared) ** -0.5

    @property
    def calibrated(self) -> bool:
        """Whether ``scale`` exists."""
        return not isinstance(self.scale, UnsetStep)

    @property
    def calibrating(self) -> bool:
        """Whether forward passes count into the step."""
        return self._seen is not None

    def begin_calibration(self) -> None:
        """Let every forward pass from here on count into the step of a quantizer that has none yet."""
        assert isinstance(self.scale, UnsetStep)
        self._seen = self.scale, []

    def end_calibration(self, *, keep: bool) -> None:
        """End the calibration, and drop the step unless ``keep``; the parameter stays the same object."""
        assert self._seen is not None
        unset, step = self._seen[0], self.scale
        self._seen = None
        if keep:
            unset.materialize(step.shape, device=step.device, dtype=step.dtype)
            with torch.no_grad():
                unset.copy_(step)
        self.scale = unset

    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        """Set the step from every calibration batch seen so far, this one included."""
        assert self._seen is not None
        statistics = self._seen[1]
        statistics.append(self.statistic(wide(x)))
        step = self.first_step(torch.stack(statistics).mean(0).flatten())  # (batches, *kept) to (steps,)
        self.scale = nn.Parameter(step, requires_grad=False)

    def _require_scale(self) -> None:
        if not self.calibrated:
            raise _no_step()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        scale = self.scale
        if not self.calibrated:
            self._parameters["scale"] = None  # left out: there is nothing to save, and torch would refuse to try
        super()._save_to_state_dict(destination, prefix, keep_vars)
        self._parameters["scale"] = scale

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        saved = state_dict.get(f"{prefix}scale")
        if saved is not None and not self.calibrated:
            dtype = torch.promote_types(saved.dtype, torch.float32)
            self.scale.materialize(saved.shape, dtype=dtype)  # type: ignore[attr-defined]
        scale = self.scale
        if not self.calibrated:
            self._parameters["scale"] = None  # neither side is calibrated: nothing is missing
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        self._parameters["scale"] = scale


def set_parts(model: nn.Module, parts: int) -> None:
    """Tell the quantizers of a model's inputs into how many equal parts each batch is divided.

    What they see at a time is one of them; the gradients of their steps are those of the whole batch.
    """
    for module in model.modules():
        for name, quantizer in module.named_children():
            if isinstance(quantizer, LearnedStepQuantizer) and name != "weight_quantizer":
                quantizer.parts = parts


def learned_steps(model: nn.Module) -> dict[str, tuple[Tensor, float]]:
    """Return the vectors of learned steps, perhaps below their floor, and the floors, by names in the state dict."""
    modules = model.named_modules(remove_duplicate=False)
    found = [(name, each) for name, each in modules if isinstance(each, LearnedStepQuantizer)]
    return {f"{name}.scale": (each.scale.detach(), each.floor) for name, each in found}


def _no_step() -> RuntimeError:
    return RuntimeError(
        "a quantizer has no step yet: call ofq.quant.calibrate(model, batches) first, "
        "or load the state dict of a calibrated model"
    )
