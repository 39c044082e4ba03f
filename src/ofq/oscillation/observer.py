"""What the observers of a window have in common: hooks of the training loop that look on and change nothing."""

from typing import Any

import torch
from torch import Tensor

from ofq.oscillation.recorder import OscillationRecorder
from ofq.quant.weights import BlockWeight


class Observer:
    """Hook of the training loop beside an :class:`OscillationRecorder`, which stands before it in the list of hooks.

    Each step it reads what the step's forward and backward pass left, and the recorder's count of reversals. The count
    lags behind: what an update did to the codes is met in the next forward pass, so the reversals of step t are those
    that the recorder has counted more at step t + 1, and :meth:`finish` takes those of the last step.
    """

    def loss(self) -> None:
        """Nothing to add."""

    def before_update(self) -> None:
        """Look at the step that was just computed."""
        raise NotImplementedError

    def after_update(self) -> None:
        """Nothing: the updated weights are met in the next forward pass."""

    def metrics(self) -> dict[str, float]:
        """No curve points."""
        return {}

    def finish(self) -> None:
        """Take the reversals of the last step; once, after the recorder's ``finish``."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up saved state."""
        raise NotImplementedError


def reversals(recorder: OscillationRecorder, weights: list[BlockWeight]) -> Tensor:
    """Reversals so far of every weight of the given matrices (int32), below each other as one vector."""
    return torch.cat([recorder.meter.reversals(weight.name).flatten() for weight in weights])


def threshold_distance(position: Tensor) -> Tensor:
    """Distance of unrounded codes to the nearest rounding threshold, |u - floor(u) - 1/2|, in code steps.

    It lies between 0 (on a threshold) and 1/2 (on a code). Positions are clamped to the outermost codes, so a clamped
    weight has 1/2, however far outside it lies; the outermost codes have a threshold on their inner side only.

    Args:
        position: as :meth:`ofq.quant.quantizers.base.Quantizer.position` gives it: codes at integers.
    """
    return (position - position.floor() - 0.5).abs()
