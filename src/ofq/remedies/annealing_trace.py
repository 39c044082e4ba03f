"""What annealing does step by step: weights left free, and where the quantizers' steps go."""

from typing import Any

import pandas as pd
import torch

from ofq.remedies.annealing import Annealing
from ofq.remedies.base import weight_quantizer


class AnnealingTrace:
    """Hook of the training loop, called after the annealing itself: one row a step and governed layer.

    Args:
        annealing: what says which weights are free.
    """

    def __init__(self, annealing: Annealing) -> None:
        self._annealing = annealing
        self._free: list[list[int]] = []
        self._scales: list[list[float]] = []

    def loss(self) -> None:
        """Nothing to add."""

    def before_update(self) -> None:
        """Nothing: what is free is known after it."""

    @torch.no_grad()
    def after_update(self) -> None:
        """Take down the free weights of each layer and its mean step.

        Not the step of one row: in a small model hardly any weight of a row is free, and such a step stands still.
        """
        self._free.append(self._annealing.free())
        steps = [weight_quantizer(layer).step(layer.weight).mean() for layer in self._annealing.layers.values()]
        self._scales.append(torch.stack(steps).tolist())

    def metrics(self) -> dict[str, float]:
        """Nothing beside what the annealing itself says."""
        return {}

    def frame(self) -> pd.DataFrame:
        """Columns step (from 1), layer, weights, free (how many of them could train), scale (mean over its rows)."""
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
        """All rows so far."""
        return {"free": self._free, "scales": self._scales}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up saved rows."""
        self._free, self._scales = list(state["free"]), list(state["scales"])
