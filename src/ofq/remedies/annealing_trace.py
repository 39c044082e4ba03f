"""Trace of annealing, step by step: the weights left free, and where the quantizers' steps go."""

from typing import Any

import pandas as pd
import torch

from ofq.quant.hook import Hook
from ofq.remedies.annealing import Annealing
from ofq.remedies.base import weight_quantizer


class AnnealingTrace(Hook):
    """Hook of the training loop, called after the annealing itself: one row per step and governed layer.

    Args:
        annealing: tells how many weights are free.
    """

    def __init__(self, annealing: Annealing) -> None:
        self._annealing = annealing
        self._free: list[list[int]] = []
        self._scales: list[list[float]] = []

    @torch.no_grad()
    def after_update(self, lr: float) -> None:
        """Note the number of free weights and the mean step of each layer.

        The step of one row would say little: in a small model hardly any weight of a row is free, so its step hardly
        moves.
        """
        self._free.append(self._annealing.free())
        steps = [weight_quantizer(layer).step(layer.weight).mean() for layer in self._annealing.layers.values()]
        self._scales.append(torch.stack(steps).tolist())  # (layers,)

    def frame(self) -> pd.DataFrame:
        """Return columns step (from 1), layer, weights, free (how many could train), scale (mean over its rows)."""
        layers = self._annealing.layers
        steps = range(1, len(self._free) + 1)
        return pd.DataFrame(
            {
                "step": [step for step in steps for _ in layers],
                "layer": [name for _ in steps for name in layers],
                "weights": [layer.weight.numel() for _ in steps for layer in layers.values()],
                "free": [count for row in self._free for count in row],
                "scale": [scale for row in self._scales for scale in row],
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all rows so far."""
        return {"free": self._free, "scales": self._scales}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore saved rows."""
        self._free, self._scales = list(state["free"]), list(state["scales"])
