"""Follow the integer codes of a model's low-bit weights through training and record what they did."""

import math
from typing import Any

import pandas as pd
import torch
from torch import nn

from ofq.oscillation.meter import OscillationMeter
from ofq.oscillation.thresholds import DISTANCE_BINS, HALF_STEP, POSITION_BIN, SHARES, threshold_distance
from ofq.quant.families.base import BlockWeight
from ofq.quant.hook import Hook
from ofq.quant.weights import block_weights, record_codes


class OscillationRecorder(Hook):
    """Hook of the training loop: an :class:`OscillationMeter` over every low-bit weight of the blocks, at every step.

    It reads the codes that the forward pass computes anyway, and changes nothing that training reads.

    Args:
        model: quantized; its weight quantizers record their codes from now on.

    Raises:
        ValueError: the model is not quantized.
    """

    def __init__(self, model: nn.Module) -> None:
        record_codes(model)
        self.weights = block_weights(model)
        self.meter = OscillationMeter()
        self.steps = 0
        self.rows: list[dict[str, Any]] = []

    def before_update(self, lr: float) -> None:
        """Count the codes with which this step's loss was computed; before the first update, record the start too."""
        self.meter.update({weight.name: weight.last_codes() for weight in self.weights})
        if self.steps == 0:
            self.rows = self._rows()
        self.steps += 1

    def metrics(self) -> dict[str, float]:
        """Record one row per layer, and return curve points.

        Returns:
            Shares over all weights and over each group, in percent, reversals per weight, and the width of the steps in
            standard deviations; none where no row of any weight has a deviation.
        """
        rows = self._rows()
        self.rows = [row for row in self.rows if row["step"] != self.steps] + rows
        wide = [row for row in rows if math.isfinite(row["step_width"])]
        groups = list(dict.fromkeys(row["group"] for row in rows))
        return {
            "osc/share": _mean(rows, "share"),
            "osc/share_high": _mean(rows, "share_high"),
            "osc/reversals": _mean(rows, "reversals"),
            **({"osc/step_width": _mean(wide, "step_width")} if wide else {}),
            **{f"osc/share_{group}": _mean([r for r in rows if r["group"] == group], "share") for group in groups},
        }

    def finish(self) -> dict[str, float]:
        """Count the codes after the last update too, and record them as the last rows.

        Returns:
            Share in percent and reversals per weight, over all weights.
        """
        self.meter.update({weight.name: weight.codes() for weight in self.weights})
        values = self.metrics()
        return {"osc_share": values["osc/share"], "reversals": values["osc/reversals"]}

    def oscillation(self) -> pd.DataFrame:
        """Return a row per layer at step 0, before any update, and at each interval.

        Shares are in percent, reversals per weight, widths of steps in standard deviations of the row; a histogram
        holds the distances to the nearest threshold.
        """
        return pd.DataFrame(self.rows)

    def final_weights(self) -> pd.DataFrame:
        """Return a histogram of each layer's latent weights in code steps (thresholds at half-integers)."""
        frames = []
        for weight in self.weights:
            bins, counts = torch.unique((weight.position() / POSITION_BIN).floor().to(torch.int64), return_counts=True)
            left = [round(index * POSITION_BIN, 6) for index in bins.tolist()]
            columns = {"layer": weight.name, "group": weight.group, "bin_left": left, "weights": counts.tolist()}
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def restart_counts(self) -> None:
        """Count reversals and record rows anew from here, as for annealing; directions and frequencies continue."""
        self.meter.reset_reversals()
        self.rows, self.steps = [], 0

    def state_dict(self) -> dict[str, Any]:
        """Return meter, rows and steps, which a resumed run needs."""
        return {"meter": self.meter.state_dict(), "rows": self.rows, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore saved state."""
        rows, steps = list(state["rows"]), state["steps"]
        self.meter.load_state_dict(state["meter"])
        self.rows, self.steps = rows, steps

    def _rows(self) -> list[dict[str, Any]]:
        return [self._row(weight) for weight in self.weights]

    def _row(self, weight: BlockWeight) -> dict[str, Any]:
        name = weight.name
        frequency, distance = self.meter.frequency(name), threshold_distance(weight.position())
        return {
            "step": self.steps,
            "layer": name,
            "group": weight.group,
            "block": weight.block,
            "weights": frequency.numel(),
            **{column: 100 * (frequency > limit).float().mean().item() for column, limit in SHARES.items()},
            "reversals": self.meter.reversals(name).float().mean().item(),
            "step_width": weight.step_width(),
            # On the processor: cards have no deterministic one.
            "distance_histogram": torch.histc(distance.cpu(), DISTANCE_BINS, 0.0, HALF_STEP).int().tolist(),
        }


def _mean(rows: list[dict[str, Any]], column: str) -> float:
    """Return the mean over all weights of the rows' layers."""
    return float(sum(row[column] * row["weights"] for row in rows) / sum(row["weights"] for row in rows))
