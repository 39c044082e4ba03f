"""What oscillating weights do to the statistics of batch norms: accuracy with statistics made anew, and how far off."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ofq.models.batchnorm import batch_norms, fed_by
from ofq.quant.hook import Hook

STEM, OTHER = "stem", "other"
"""Groups of the batch norms behind a layer that has no low-bit weight, and behind something else than one layer."""
SHIFTS = ["channels", "dead", "kl_mean", "kl_max"]
"""Columns of a record: channels of a batch norm, those whose weights are all rounded to 0, divergences by channel."""
_KEYS = ["step", "layer"]


class Reestimation(Hook):
    """At each evaluation the accuracy with re-estimated statistics of batch norms too, and their divergence by layer.

    Running statistics are means over the last updates' batches, so they lag behind weights whose codes change.
    Training goes on with them: buffers, and all else, are put back.

    Args:
        model: quantized, with batch norms.
        groups: of its low-bit weights, by the name of their layer.
        estimate: replaces the running statistics of the model after so many steps.
        top1: evaluates the model as it is, in percent.

    Raises:
        ValueError: a kind of layer that keeps running statistics is not supported.

    Source: Nagel et al. 2022; tests/golden/README.md section 11, batch norms.
    """

    def __init__(
        self, model: nn.Module, groups: Mapping[str, str], estimate: Callable[[int], None], top1: Callable[[], float]
    ) -> None:
        self._model, self._groups = model, groups
        self._estimate, self._top1 = estimate, top1
        self._norms = batch_norms(model)
        self.steps = 0
        self.rows: list[dict[str, Any]] = []

    def before_update(self, lr: float) -> None:
        """Count the steps."""
        self.steps += 1

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Record a row for each batch norm, and return curve points; leave the model in evaluation mode.

        Returns:
            Accuracy; mean divergence over the channels of each group, and of its layer where that is largest; the
            number of channels whose weights are all rounded to 0.
        """
        buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        running = {name: _statistics(norm) for name, norm in self._norms.items()}
        try:
            with fed_by(self._model) as feeding:
                self._estimate(self.steps)
            top1 = self._top1()
            rows = [
                self._row(name, feeding.get(name), running[name], _statistics(norm))
                for name, norm in self._norms.items()
            ]
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)
        self.rows += rows
        frame = pd.DataFrame(rows)
        found = {"val/top1_reestimated": top1, "bn/dead_channels": int(frame["dead"].sum())}
        for group, part in frame.groupby("group", sort=False):
            found[f"bn/kl_{group}"] = float(np.average(part["kl_mean"], weights=part["channels"]))
            found[f"bn/kl_largest_{group}"] = float(part["kl_mean"].max())
        return found

    def joined(self, record: pd.DataFrame) -> pd.DataFrame:
        """Return a record with a row for each step and layer with the columns of the batch norms behind the layers."""
        shifts = pd.DataFrame(self.rows, columns=[*_KEYS, *SHIFTS])
        return record.merge(shifts.drop_duplicates(_KEYS), how="left", on=_KEYS)

    def state_dict(self) -> dict[str, Any]:
        """Return rows and steps, which a resumed run needs."""
        return {"rows": self.rows, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore saved state."""
        self.rows, self.steps = list(state["rows"]), state["steps"]

    def _row(self, name: str, feeding: str | None, running: Tensor, found: Tensor) -> dict[str, Any]:
        divergence = gaussian_divergence(running, found, self._norms[name].eps)
        dead = 0 if feeding is None else int(_all_zero(self._model.get_submodule(feeding)).sum())
        return {
            "step": self.steps,
            "layer": feeding or name,
            "group": self._groups.get(feeding, STEM) if feeding else OTHER,
            "channels": divergence.numel(),
            "dead": dead,
            "kl_mean": divergence.mean().item(),
            "kl_max": divergence.max().item(),
        }


def gaussian_divergence(running: Tensor, found: Tensor, eps: float) -> Tensor:
    """Compute the Kullback-Leibler divergence of each channel's re-estimated distribution p from the running one e.

        1/2 [ln(v_e/v_p) + (v_p + (m_p - m_e)^2)/v_e - 1],  variances v not below eps

    The layer adds eps to its variance, so smaller ones do not matter to it; those of a channel whose weights are all
    rounded to 0 would otherwise give 0/0.

    Args:
        running: means m_e and variances v_e (2, channels).
        found: m_p and v_p (2, channels), re-estimated.
        eps: of the layer.

    Returns:
        In nats (channels,), float64.
    """
    (m_e, v_e), (m_p, v_p) = running.double(), found.double()
    v_e, v_p = v_e.clamp_min(eps), v_p.clamp_min(eps)
    return ((v_e / v_p).log() + (v_p + (m_p - m_e) ** 2) / v_e - 1) / 2


def _statistics(norm: Any) -> Tensor:
    return torch.stack([norm.running_mean, norm.running_var])  # (2, channels), a copy


def _all_zero(layer: Any) -> Tensor:
    """Return which output channels of a layer have no weight but 0, as it multiplies with them."""
    quantizer = getattr(layer, "weight_quantizer", None)
    weight = layer.weight if quantizer is None else quantizer(layer.weight)
    return (weight.flatten(1) == 0).all(1)  # (O, ...) to (O,)
