"""Weights near a rounding threshold: which they are, their gradients, their reversals."""

from typing import Any

import torch
from torch import Tensor

from ofq.oscillation.recorder import OscillationRecorder
from ofq.oscillation.thresholds import DISTANCE_BINS, threshold_distance
from ofq.quant.hook import Hook
from ofq.quant.modules.qkr import QKRAttention

BAND = 0.005  # code steps: the boundary range of confidence-guided annealing
_STATE = ("counts", "bins", "signs", "reversals", "first", "last")  # attributes that a resumed window needs


class BoundaryObserver(Hook):
    """Counter of (weight, step) pairs by the weight's distance to the nearest threshold before the step's update.

    Let u_t be the unrounded code of a weight, g_t its gradient and c_t its code at step t. The bin of a pair
    (weight, t) is that of |u_t - floor(u_t) - 1/2|. Each bin counts all pairs, and those with a

        gradient turn    g_t * g_(t-1) < 0: the gradient has the opposite sign of that of the step before. A gradient of
                         zero, as LSQ gives a clamped weight, has no sign, and the first step has no step before it
        reversal         update t moved the code, c_(t+1) != c_t, against the direction of its last change: the rule of
                         :class:`ofq.oscillation.OscillationMeter`, from the recorder's own count

    The observer also notes which weights lie in a narrow band around the thresholds at the first and at the last step.
    If few are there at both, oscillation is no property of certain weights.

    The recorder's count lags one step behind, because only the next forward pass shows what an update did to the codes:
    the reversals of step t are the increase of the count at step t + 1, and :meth:`finish` takes those of the last.

    Under query-key reparameterization the quantized product of the query and key weights is left out: it is not a
    parameter, so it has no gradient and no update of its own.

    Args:
        recorder: follows the codes; its hook comes before this one.

    Source: OFQ paper, figure 4.
    """

    def __init__(self, recorder: OscillationRecorder) -> None:
        self._recorder = recorder
        self._weights = [weight for weight in recorder.weights if not isinstance(weight.layer, QKRAttention)]
        here = self._weights[0].latent().device
        # Pairs, gradient turns, reversals.
        self._counts = torch.zeros(3, DISTANCE_BINS, dtype=torch.int64, device=here)
        # Of every weight at the latest step, one vector (weights,) each.
        self._bins: Tensor | None = None
        self._signs: Tensor | None = None
        self._reversals: Tensor | None = None
        self._first: Tensor | None = None  # inside the band at the first step
        self._last: Tensor | None = None  # at the latest

    @torch.no_grad()
    def before_update(self, lr: float) -> None:
        """Sort the weights by their distance, and count which gradients turned."""
        self._count_reversals()
        # (weights,), all layers one after the other
        distance = torch.cat([threshold_distance(weight.position()).flatten() for weight in self._weights])
        bins = (distance * (2 * DISTANCE_BINS)).to(torch.uint8).clamp_(max=DISTANCE_BINS - 1)
        signs = self._gradients().sign().to(torch.int8)
        self._count(0, bins)
        if self._signs is not None:
            self._count(1, bins[signs * self._signs < 0])
        self._last = distance <= BAND
        if self._first is None:
            self._first = self._last
        self._bins, self._signs = bins, signs

    @torch.no_grad()
    def finish(self) -> None:
        """Count the reversals of the last update; call it once, after the recorder's ``finish``."""
        self._count_reversals()

    def boundary(self) -> dict[str, list[float] | list[int]]:
        """Return by bin the ``left`` edge in code steps and the counts.

        The counts are ``weight_steps`` (all pairs), ``gradient_turns`` and ``reversals``.
        """
        names = ["weight_steps", "gradient_turns", "reversals"]
        left = [round(i / (2 * DISTANCE_BINS), 6) for i in range(DISTANCE_BINS)]
        return {"left": left, **dict(zip(names, self._counts.tolist(), strict=True))}

    def band(self) -> dict[str, float]:
        """Return how many ``weights`` there are, and how many lay near a threshold at ``start``, ``end`` and ``both``.

        Near means within ``range`` code steps.

        Raises:
            RuntimeError: no step was seen.
        """
        if self._first is None or self._last is None:
            raise RuntimeError("no step was observed")
        return {
            "range": BAND,
            "weights": self._first.numel(),
            "start": int(self._first.sum()),
            "end": int(self._last.sum()),
            "both": int((self._first & self._last).sum()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, and what the next step is compared with."""
        return {name: getattr(self, f"_{name}") for name in _STATE} | {"counts": self._counts.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore saved state."""
        for name in _STATE:
            setattr(self, f"_{name}", state[name])

    def _gradients(self) -> Tensor:
        parts = []
        for weight in self._weights:
            gradient = weight.layer.weight.grad
            assert isinstance(gradient, Tensor), f"{weight.name} has no gradient"
            parts.append(gradient[weight.rows].flatten())  # to (weights,)
        return torch.cat(parts)

    def _count_reversals(self) -> None:
        """Count the reversals of the last update, in the bins from before it."""
        # (weights,), all matrices one after the other
        counted = torch.cat([self._recorder.meter.reversals(weight.name).flatten() for weight in self._weights])
        if self._bins is not None:
            self._count(2, self._bins[counted != self._reversals])
        self._reversals = counted

    def _count(self, row: int, bins: Tensor) -> None:
        self._counts[row] += torch.bincount(bins, minlength=DISTANCE_BINS)
