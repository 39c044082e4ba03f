"""Trace of annealing: the weights left free, and where the quantizers' steps go."""

from typing import Any

import pandas as pd
import torch

from ofq.quant.hook import Hook
from ofq.remedies.annealing import Annealing
from ofq.remedies.base import weight_quantizer

_EVERY_STEP = 1024  # the first ones, in which most is frozen; of as many more, twice as many and so on 512 each


class AnnealingTrace(Hook):
    """Hook of the training loop, called after the annealing itself: one row per noted step and governed layer.

    Noted are the first 1024 steps, of the next 1024 every second, of the next 2048 every fourth and so on: a trace of
    30 epochs on ImageNet would else have millions of rows.

    Args:
        annealing: tells how many weights are free.
    """

    def __init__(self, annealing: Annealing) -> None:
        self._annealing = annealing
        self._step = 0
        self._noted: list[int] = []
        self._free: list[list[int]] = []
        self._scales: list[list[float]] = []

    @torch.no_grad()
    def after_update(self, lr: float) -> None:
        """Note the number of free weights and the mean step of each layer.

        The step of one row would say little: in a small model hardly any weight of a row is free, so its step hardly
        moves.
        """
        self._step += 1
        if self._step % 2 ** max(0, ((self._step - 1) // _EVERY_STEP).bit_length()):
            return
        self._noted.append(self._step)
        self._free.append(self._annealing.free())
        steps = [weight_quantizer(layer).step(layer.weight).mean() for layer in self._annealing.layers.values()]
        self._scales.append(torch.stack(steps).tolist())  # (layers,)

    def frame(self) -> pd.DataFrame:
        """Return columns step (from 1), layer, weights, free (how many could train), scale (mean over its rows)."""
        layers = self._annealing.layers
        return pd.DataFrame(
            {
                "step": [step for step in self._noted for _ in layers],
                "layer": [name for _ in self._noted for name in layers],
                "weights": [layer.weight.numel() for _ in self._noted for layer in layers.values()],
                "free": [count for row in self._free for count in row],
                "scale": [scale for row in self._scales for scale in row],
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all rows so far."""
        return {"step": self._step, "noted": self._noted, "free": self._free, "scales": self._scales}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore saved rows."""
        self._step, self._noted = state["step"], list(state["noted"])
        self._free, self._scales = list(state["free"]), list(state["scales"])
