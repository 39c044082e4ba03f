"""The base of the observers of a window: hooks of the training loop that look on and change nothing."""

from typing import Any

import torch
from torch import Tensor

from ofq.oscillation.recorder import OscillationRecorder
from ofq.quant.families.base import BlockWeight
from ofq.quant.hook import Hook


class Observer(Hook):
    """Hook of the training loop that comes after an :class:`OscillationRecorder` in the list of hooks.

    Each step it reads what the forward and backward pass left, and the recorder's count of reversals. The count lags
    one step behind, because only the next forward pass shows what an update did to the codes: the reversals of step t
    are the increase of the count at step t + 1. :meth:`finish` takes those of the last step.
    """

    def before_update(self, lr: float) -> None:
        """Look at the step that was just computed."""
        raise NotImplementedError

    def finish(self) -> None:
        """Count the reversals of the last step; call it once, after the recorder's ``finish``."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore saved state."""
        raise NotImplementedError


def reversals(recorder: OscillationRecorder, weights: list[BlockWeight]) -> Tensor:
    """Return the reversals so far of every weight of the given matrices as one vector (int32)."""
    # (weights,), all matrices one after the other
    return torch.cat([recorder.meter.reversals(weight.name).flatten() for weight in weights])
