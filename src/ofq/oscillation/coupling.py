"""Co-oscillation, which QKR is meant to end: whether query and key codes turn round together."""

from typing import Any

import torch
from torch import Tensor, nn

from ofq.oscillation.meter import OscillationMeter
from ofq.oscillation.recorder import OscillationRecorder
from ofq.quant.hook import Hook
from ofq.quant.modules.attention import QuantAttention
from ofq.quant.modules.qkr import QKRAttention
from ofq.quant.quantizers.statsq import StatsQuantizer


class CouplingObserver(Hook):
    """Counter of the query codes and the key codes that turn round in each step, head by head.

    Let q_t and k_t be the numbers of reversals that update t makes in the query and key codes of a head (its d rows of
    each), and <.> the mean over the steps of the window:

        chance = <q><k>          what <q_t k_t> would be if the two turned round independently
        same   = <q_t k_t>       in the head itself
        other  = <q_t K_t>       K_t: mean of k_t over all other heads of all blocks

    Their :func:`ofq.oscillation.thresholds.lift` is the sum of ``same`` over the heads, relative to that of ``chance``.
    A lift above 1 alone does not show that query and key are coupled. Some batches move the whole model: after a large
    loss the codes of all layers turn more often, and then any two of them are correlated. ``other`` measures this
    common part alone, because a query is never multiplied with the keys of another head. So the coupling through the
    product of a head is what its lift has above that of ``other``.

    Under query-key reparameterization queries and keys have no codes of their own. Then *shadow* codes are followed:
    those that a fresh StatsQ of the same bits would give to ``q.weight`` and ``k.weight``. It is StatsQ also where the
    run's weights are quantized with LSQ, because no step was learned for these two. Nothing was trained with shadow
    codes; they show what the latent weights do. They are followed from the start of the window, so the first change of
    each has no direction to turn against. The model's own codes go on from the run. A model without attention has no
    heads, and nothing is counted.

    Args:
        model: quantized and calibrated.
        recorder: follows the codes of the model; its hook comes before this one.

    Source: OFQ paper, section 3 (QKR).
    """

    def __init__(self, model: nn.Module, recorder: OscillationRecorder) -> None:
        self._recorder = recorder
        self._heads: list[tuple[str, int, int]] = []  # name of the attention, block, number of heads
        self._shadows: list[tuple[StatsQuantizer, QKRAttention]] = []
        self._meter = OscillationMeter()  # of the shadow codes
        for weight in recorder.weights:
            if weight.group in ("q", "qk"):
                name = weight.name.rpartition(".")[0]
                attention = model.get_submodule(name)
                assert isinstance(attention, QuantAttention | QKRAttention)
                self._heads.append((name, weight.block, attention.num_heads))
                if isinstance(attention, QKRAttention):
                    self._shadows.append((StatsQuantizer(weight.bits), attention))
        heads = sum(count for _, _, count in self._heads)
        here = next(model.parameters()).device
        # Of q, k, q*k, and q*(sum of k of the other heads).
        self._sums = torch.zeros(4, heads, dtype=torch.int64, device=here)
        self._before: Tensor | None = None  # (2, heads): reversals of q and k so far
        self._steps = 0

    @property
    def codes(self) -> str:
        """Whose codes are followed: ``own`` of the model, or ``shadow``."""
        return "shadow" if self._shadows else "own"

    @torch.no_grad()
    def before_update(self, lr: float) -> None:
        """Count what the last update turned round."""
        if not self._heads:
            return
        if self._shadows:
            weights = {
                f"{name}.{side}": quantizer.codes(getattr(attention, side).weight)
                for (name, _, _), (quantizer, attention) in zip(self._heads, self._shadows, strict=True)
                for side in "qk"
            }
            self._meter.update(weights)
        counted = torch.stack([self._by_head("q"), self._by_head("k")])  # (2, heads)
        if self._before is not None:
            q, k = counted - self._before
            self._sums += torch.stack([q, k, q * k, q * (k.sum() - k)])  # (4, heads)
            self._steps += 1
        self._before = counted

    def finish(self) -> None:
        """Count what the last update turned round; call it once, after the recorder's ``finish``."""
        self.before_update(0.0)

    def coupling(self) -> list[dict[str, Any]]:
        """List for each head ``block``, ``head``, ``steps``, mean ``q`` and ``k``, ``same``, ``other`` and ``chance``.

        ``other`` is None for the only head of a model; a model without attention has none.

        Raises:
            RuntimeError: no step was seen.
        """
        if self._heads and not self._steps:
            raise RuntimeError("no step was observed")
        places = [(block, head) for _, block, count in self._heads for head in range(count)]
        others = len(places) - 1
        entries = []
        # (4, heads) to (heads, 4)
        for (block, head), sums in zip(places, self._sums.t().tolist(), strict=True):
            q, k, same, other = (value / self._steps for value in sums)
            entries.append(
                {
                    "block": block,
                    "head": head,
                    "steps": self._steps,
                    "q": q,
                    "k": k,
                    "same": same,
                    "other": other / others if others else None,
                    "chance": q * k,
                }
            )
        return entries

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, what the next step is compared with, and the state of the shadow codes' meter."""
        return {
            "sums": self._sums.clone(),
            "before": self._before,
            "steps": self._steps,
            "meter": self._meter.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore saved state."""
        self._sums, self._before, self._steps = state["sums"], state["before"], state["steps"]
        self._meter.load_state_dict(state["meter"])

    def _by_head(self, side: str) -> Tensor:
        """Return the reversals so far in the codes of each head of all blocks (int64)."""
        meter = self._meter if self._shadows else self._recorder.meter
        # (A, C) to (H, d*C), summed to (H,)
        return torch.cat([meter.reversals(f"{name}.{side}").view(n, -1).sum(1) for name, _, n in self._heads])
