"""Iterative weight freezing: hold a weight that oscillates too often at one code for the rest of the training."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ofq.oscillation.meter import OscillationMeter
from ofq.quant.families.base import WeightLayer
from ofq.quant.quantizers.learned import LearnedStepQuantizer
from ofq.remedies.base import Remedy, annealed, check_schedule, governed_layers, weight_quantizer
from ofq.runs.registry import register

MOST_BITS = 4
"""Weights of more bits are never frozen."""

_INWARD = 1 - 1e-6  # so that rounding noise does not make a weight on an outermost level a clamped one
_PLACINGS = 8  # at most, until all codes are right: placing weights by StatsQ's step moves that step


class FrozenCodes:
    """The rule that decides which integer codes are frozen, and at what.

    Frequencies f are those of :class:`ofq.oscillation.OscillationMeter`. The exponential mean of the codes begins with
    the codes of the first step whose threshold is above 0:

        newly frozen  <=>  f > threshold, and not frozen before
        frozen code = round(mean), the mean before this step (or the code of this step, without ``average``)
        mean <- m*code + (1-m)*mean

    A frozen code is chosen once, as the paper says. The released code chooses it anew at each step with f > threshold,
    so a weight whose mean stays near a half-integer changes its frozen code for ever.

    Args:
        momentum: m of frequencies and means.
        average: freeze at the rounded mean of the codes, not at the last code.
        anew: choose frozen codes as the released code does.

    Raises:
        ValueError: ``momentum`` is not in (0, 1].

    Source: tests/golden/README.md section 7; Nagel et al. 2022, algorithm 1.
    """

    def __init__(self, momentum: float = 0.01, *, average: bool = True, anew: bool = False) -> None:
        self.meter = OscillationMeter(momentum)
        self.average, self.anew = average, anew
        self.frozen: dict[str, Tensor] = {}
        """Which weights are frozen (bool), by name; empty while no threshold was above 0."""
        self.codes: dict[str, Tensor] = {}
        """Codes at which they are frozen (int8), by name; 0 where nothing is frozen."""
        self._means: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, codes: Mapping[str, Tensor], threshold: float) -> dict[str, Tensor]:
        """Take the codes of one training step.

        Args:
            codes: integer codes by name; those of frozen weights are the frozen ones.
            threshold: frequency above which a weight is frozen; 0 freezes nothing.

        Returns:
            Whose frozen codes this step chose (bool, in the codes' shape), by name; empty if the threshold is 0.
        """
        self.meter.update(codes)
        if threshold <= 0:
            return {}
        if not self.frozen:
            self._means = {name: code.float() for name, code in codes.items()}
            self.frozen = {name: torch.zeros_like(code, dtype=torch.bool) for name, code in codes.items()}
            self.codes = {name: torch.zeros_like(code, dtype=torch.int8) for name, code in codes.items()}
        new = {}
        for name, code in codes.items():
            new[name] = self.meter.frequency(name) > threshold
            if not self.anew:
                new[name].logical_and_(~self.frozen[name])
            at = self._means[name].round() if self.average else code
            self.codes[name] = torch.where(new[name], at.to(torch.int8), self.codes[name])
            self.frozen[name] |= new[name]
            self._means[name].lerp_(code.float(), self.meter.momentum)
        return new

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors only, so that ``torch.load`` is safe."""
        parts = {"frozen": self.frozen, "codes": self.codes, "means": self._means}
        return {"meter": self.meter.state_dict(), **{name: dict(tensors) for name, tensors in parts.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        frozen, codes, means = (dict(state[name]) for name in ("frozen", "codes", "means"))
        self.meter.load_state_dict(state["meter"])
        self.frozen, self.codes, self._means = frozen, codes, means


@register("freezing")
class IterativeFreezing(Remedy):
    """Remedy that freezes weights that oscillate too often: their integer codes do not change again.

    No weight is frozen in the first part of the training; then the threshold of :class:`FrozenCodes` falls along half a
    cosine, see :func:`ofq.remedies.base.annealed`. A frozen weight is put at the centre of its bin,

        w = step*(code + offset),   offset 0 on the integer grid, 1/2 on a mid-rise grid (StatsQ, lsq-midrise)

    It gets no gradient, and neither momentum nor weight decay moves it. Its code is held, not its value:

    * A learned step moves, and frozen weights follow it. Their values step*(code + offset) still pull on the step:
      dL/dscale += gamma*g*(code + offset) with the quantizer's gamma, of LSQ 1/sqrt(largest code * M), where M weights
      share the step.
    * StatsQ's step is a mean over the row, frozen weights included. There a frozen weight stays where it is. It is put
      at the centre of its bin again only if the step has moved so far that the weight would round to another code.
      (Weights that followed the step would move it in turn, and a wholly frozen row would shrink at every step.)

    It governs the layers of :func:`ofq.remedies.base.governed_layers`, of at most 4 bits.

    Args:
        model: a quantized and calibrated model.
        steps: optimizer steps of the whole training.
        threshold: frequency threshold at the last step.
        first_threshold: frequency threshold at the first step that freezes.
        start: share of the steps in which nothing is frozen.
        momentum: of the frequencies and of the mean codes.
        average: freeze at the rounded mean of the codes, not at the last code.
        anew: choose a frozen code anew at each step at which the weight's frequency is above the threshold, as the
            released code does.
        evaluated: batches of each evaluation, and of the re-estimation before it, that frequencies and mean codes take
            as if they were steps, as the released code does; 0 for none.

    Raises:
        ValueError: an argument out of range, the model is not quantized, or its weights have more than 4 bits.

    Source: Nagel et al. 2022, section 4.2 and algorithm 1; schedule as in its released code
    (tests/golden/README.md section 11).
    """

    def __init__(  # noqa: PLR0913  # the settings that params.yaml may give it
        self,
        model: nn.Module,
        steps: int,
        *,
        threshold: float = 0.01,
        first_threshold: float = 0.1,
        start: float = 0.25,
        momentum: float = 0.01,
        average: bool = True,
        anew: bool = False,
        evaluated: int = 0,
    ) -> None:
        check_schedule(steps, start)
        for name, value in (("threshold", threshold), ("first_threshold", first_threshold)):
            if not 0 < value <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, not {value}")
        if not isinstance(evaluated, int) or evaluated < 0:
            raise ValueError(f"evaluated must be a whole number from 0 on, not {evaluated!r}")
        self.threshold, self.first_threshold, self.start, self.steps = threshold, first_threshold, start, steps
        governed = governed_layers(model)
        self._layers = {name: layer for name, layer in governed.items() if weight_quantizer(layer).bits <= MOST_BITS}
        if not self._layers:
            raise ValueError(f"only weights of at most {MOST_BITS} bits are frozen, and this model's have more")
        self.rule = FrozenCodes(momentum, average=average, anew=anew)
        self.evaluated = evaluated
        self._waiting = 0  # batches of the last evaluation, which the rule has not taken yet
        self._step = 0
        self._new: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}

    @torch.no_grad()
    def before_update(self, lr: float) -> None:
        """Freeze what oscillates, zero the gradients of frozen weights, and remember the values of all."""
        codes = {}
        for name, layer in self._layers.items():
            quantizer = weight_quantizer(layer)
            codes[name] = quantizer.codes(layer.weight)
            if self.rule.frozen and isinstance(quantizer, LearnedStepQuantizer):
                _pull(quantizer, layer.weight, self.rule.frozen[name])
        self._new = self._take(codes)
        self._before = {}
        for name, frozen in self.rule.frozen.items():
            weight = self._layers[name].weight
            if weight.grad is not None:
                weight.grad.masked_fill_(frozen, 0.0)  # no product: 0*inf would reach Adam's moments as NaN
            self._before[name] = weight.clone()

    @torch.no_grad()
    def after_update(self, lr: float) -> None:
        """Put frozen weights back, and newly frozen ones at the centres of their bins."""
        self._step += 1
        for name, before in self._before.items():
            layer, frozen = self._layers[name], self.rule.frozen[name]
            torch.where(frozen, before, layer.weight, out=layer.weight)
            _place(layer, self.rule.codes[name], frozen, self._new.get(name))
        self._before = {}

    def metrics(self) -> dict[str, float]:
        """Return ``freezing/share``, the percentage of governed weights that are frozen, and ``freezing/threshold``.

        The threshold is 0 while nothing may be frozen. They are asked for after each evaluation, whose batches the rule
        takes before the next step if they count.
        """
        self._waiting = self.evaluated
        frozen = [mask.sum() for mask in self.rule.frozen.values()]
        total = sum(layer.weight.numel() for layer in self._layers.values())
        # (layers,) to ()
        share = 100.0 * torch.stack(frozen).sum().item() / total if frozen else 0.0
        return {"freezing/share": share, "freezing/threshold": self._threshold(self._step)}

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps done and the state of the rule."""
        waiting = {"waiting": self._waiting} if self.evaluated else {}
        return {"step": self._step, "rule": self.rule.state_dict(), **waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the step at which :meth:`state_dict` was taken."""
        step = state["step"]
        self.rule.load_state_dict(state["rule"])
        self._step, self._waiting = step, state.get("waiting", 0)

    def _take(self, codes: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give the rule the codes of a step, before it those of an evaluation, which are the same weights'."""
        chosen: dict[str, Tensor] = {}
        for step in [self._step] * self._waiting + [self._step + 1]:
            new = self.rule.update(codes, self._threshold(step))
            chosen = {name: each | chosen[name] if name in chosen else each for name, each in new.items()}
            codes = {
                name: torch.where(self.rule.frozen[name], self.rule.codes[name], code) if name in new else code
                for name, code in codes.items()
            }
        self._waiting = 0
        return chosen

    def _threshold(self, step: int) -> float:
        if step < self.start * self.steps:
            return 0.0
        return annealed(step, self.steps, start=self.start, first=self.first_threshold, last=self.threshold)


def _place(layer: WeightLayer, codes: Tensor, frozen: Tensor, new: Tensor | None) -> None:
    """Put frozen weights at the centres of their bins: all with a learned step, else only new and misplaced ones."""
    quantizer = weight_quantizer(layer)
    centre = (codes + quantizer.offset) * _INWARD
    if isinstance(quantizer, LearnedStepQuantizer):
        _put(layer, centre, frozen)
        return
    if new is not None:
        _put(layer, centre, new)
    for _ in range(_PLACINGS):
        misplaced = (quantizer.codes(layer.weight) != codes).logical_and_(frozen)
        if not misplaced.any():
            return
        _put(layer, centre, misplaced)


def _put(layer: WeightLayer, position: Tensor, where: Tensor) -> None:
    """Set weights to positions, which are in their steps and in the weight's shape."""
    step = weight_quantizer(layer).spread_step(layer.weight)
    torch.where(where, position * step, layer.weight, out=layer.weight)


def _pull(quantizer: LearnedStepQuantizer, weight: Tensor, frozen: Tensor) -> None:
    """Give the learned step the gradient gamma*g*(code + offset) of frozen weights, whose codes are constants.

    The quantizer's own gradient is gamma*g*(code + offset - w/step): it lets the code change with the step.
    """
    scale = quantizer.scale
    if weight.grad is None or scale.grad is None:
        return
    step = quantizer.spread_step(weight)
    pull = (weight.grad * weight / step).masked_fill_(~frozen, 0.0)
    scale.grad.add_(pull.sum_to_size(step.shape).flatten(), alpha=float(quantizer.gamma(weight.shape)))  # (steps,)
