"""Toy regression: weights pulled towards targets through a quantizer, and nothing else.

It uses the quantizers and the meter that training uses. ``docs/oscillation.md`` explains its results.
"""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from ofq.oscillation.meter import OscillationMeter
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.lsq import LSQQuantizer
from ofq.quant.quantizers.statsq import StatsQuantizer
from ofq.runs.files import write_text
from ofq.runs.paths import TOY

STEP, BITS, LR = 0.25, 3, 0.05
START, TARGET = 0.45, 0.14
OTHERS = [-0.46, 0.31, 0.62, -0.22, 0.07, -0.35, 0.50]  # targets of the other weights of a row of eight


@dataclass(frozen=True)
class Trace:
    """Record of a simulation, with the state before the update of each step.

    Attributes:
        weights: latent weights (steps, rows, columns).
        values: quantized weights, same shape.
        codes: integer codes, same shape.
        scales: steps of the quantizer (steps, rows), or (steps, 1) if all weights share one.
        reversals: of each weight per step (rows, columns).
    """

    weights: Tensor
    values: Tensor
    codes: Tensor
    scales: Tensor
    reversals: Tensor


def learned(scale: Tensor, *, bits: int = BITS, axis: int | None = 0) -> LSQQuantizer:
    """Make an LSQ quantizer that starts from the given steps, a vector.

    There is one for each index of the axis; with ``axis=None`` one for all weights.
    """
    quantizer = LSQQuantizer(bits, axis=axis)
    quantizer.load_state_dict({"scale": scale})
    return quantizer


def train(
    quantizer: Quantizer, start: Tensor, target: Tensor, *, lr: float = LR, scale_lr: float = 0.0, steps: int = 500
) -> Trace:
    """Run gradient descent on L = 1/2 sum (q(w) - target)^2.

    With ``scale_lr`` > 0 the steps of the quantizer learn too. Weights and steps are updated together, from the same
    forward pass.

    Args:
        quantizer: straight-through, so that dL/dw = q(w) - target wherever it passes gradients.
        start: weights (rows, columns).
        target: values that the quantized weights should take, same shape.
        lr: learning rate of the weights.
        scale_lr: learning rate of the quantizer's own steps.
        steps: updates.

    Source: tests/golden/README.md section 12; OFQ paper, figure 1.
    """
    quantizer.record = True
    weight = start.clone().requires_grad_()
    trained = [(weight, lr), *((scale, scale_lr) for scale in quantizer.parameters())]
    meter = OscillationMeter()
    rows: list[tuple[Tensor, ...]] = []
    for _ in range(steps):
        value = quantizer(weight)
        codes = quantizer.last_codes
        assert codes is not None
        meter.update({"toy": codes})
        rows.append(tuple(x.detach().clone() for x in (weight, value, codes, quantizer.step(weight))))
        loss = 0.5 * (value - target).square().sum()
        gradients = torch.autograd.grad(loss, [parameter for parameter, _ in trained])
        with torch.no_grad():
            for (parameter, rate), gradient in zip(trained, gradients, strict=True):
                parameter -= rate * gradient
    # (steps, rows, columns) three times, (steps, rows)
    weights, values, all_codes, scales = (torch.stack(column) for column in zip(*rows, strict=True))
    return Trace(weights, values, all_codes, scales, meter.reversals("toy") / steps)


def row_of_eight() -> tuple[Tensor, Tensor]:
    """Return the start of a row of weights and the targets that they are pulled to, (1, 8) each."""
    start = [START, *(0.5 * target for target in OTHERS)]
    return torch.tensor([start], dtype=torch.float64), torch.tensor([[TARGET, *OTHERS]], dtype=torch.float64)


def compare() -> dict[str, Trace]:
    """Train the same row of weights with three kinds of step: ``fixed``, ``learned``, ``statistical``.

    The learned step begins at the value of the fixed one, and has the learning rate of the weights.
    """
    start, target = row_of_eight()
    step = torch.tensor([STEP], dtype=torch.float64)
    return {
        "fixed": train(learned(step), start, target),
        "learned": train(learned(step), start, target, scale_lr=LR),
        "statistical": train(StatsQuantizer(BITS), start, target),
    }


def tidy(traces: dict[str, Trace]) -> pd.DataFrame:
    """Return a row for each case, step and weight: ``latent``, quantized ``value``, ``code``, and ``scale``, the step.

    Args:
        traces: by case, each of one row of weights.
    """
    frames = []
    for case, trace in traces.items():
        steps, _, count = trace.weights.shape
        columns = {
            "case": case,
            "step": torch.arange(steps).repeat_interleave(count),
            "weight": torch.arange(count).repeat(steps),
            "latent": trace.weights.flatten(),  # (steps, 1, count) to (steps*count,)
            "value": trace.values.flatten(),  # (steps*count,)
            "code": trace.codes.flatten(),  # (steps*count,)
            "scale": trace.scales.flatten().repeat_interleave(count),  # (steps, 1) to (steps,) to (steps*count,)
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def write_trace() -> None:
    """Simulate, and write ``results/toy/trace.csv``."""
    path = TOY / "trace.csv"
    write_text(path, tidy(compare()).to_csv(index=False, float_format="%.10g"))
    print(f"written to {path}")
