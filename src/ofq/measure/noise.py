"""Noise on the codes of a finished run: is the model at the end of training a chance snapshot?"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ofq.config.resolve import KEEPING, Keeping, RunConfig, TeacherConfig
from ofq.data.batch import Batches
from ofq.data.seeds import seeded
from ofq.errors import UserError
from ofq.measure.extent import PLACES, RANGES, TRAIN_IMAGES, TRIALS
from ofq.models.weights import load_weights
from ofq.oscillation.thresholds import threshold_distance
from ofq.quant.families.base import BlockWeight, WeightLayer
from ofq.quant.modules.qkr import QKRAttention
from ofq.quant.quantizers.base import Quantizer, Rounded
from ofq.quant.weights import block_weights
from ofq.runs import states
from ofq.runs.files import replacing
from ofq.runs.paths import Run
from ofq.runs.published import seal
from ofq.training.device import CPU, Device, hardware_to_measure, tell_where
from ofq.training.job import Step, started
from ofq.training.loop import evaluate
from ofq.training.student import make_student

_COLUMNS = ["where", "range", "trial", "injected", "top1", "loss", "train_loss"]

Layer = WeightLayer | QKRAttention
_Levels = tuple[float, float] | tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Noise:
    """One draw of noise.

    Attributes:
        seed: of the run.
        trial: number of the draw.
        where: ``boundary`` or ``random``.
        range: of the distance to the nearest rounding threshold, in code steps.
    """

    seed: int
    trial: int
    where: str
    range: float


class FixedQuantizer(Quantizer):
    """A weight quantizer with fixed codes and values: those of another quantizer, with its codes replaced.

    Values are step*(code + offset) with the steps and the grid of the other quantizer. They are computed as it does, so
    its own codes give its own values to the bit.

    Args:
        quantizer: the other quantizer.
        weight: what it quantizes.
        codes: in place of its codes, same shape.
    """

    def __init__(self, quantizer: Quantizer, weight: Tensor, codes: Tensor) -> None:
        super().__init__(quantizer.bits)
        with torch.no_grad():
            own = quantizer.rounded(weight)
            replaced = codes.to(own.codes)
            shifted = torch.addcmul(own.step * own.offset, replaced, own.step) if own.offset else replaced * own.step
        self._replaced = quantizer
        self._rounded = own._replace(values=shifted, codes=replaced)

    def rounded(self, x: Tensor) -> Rounded:
        """Return the fixed values with their codes and steps, whatever ``x`` is."""
        return self._rounded

    def step(self, w: Tensor) -> Tensor:
        """Return the step of the other quantizer."""
        return self._replaced.step(w)

    def position(self, w: Tensor) -> Tensor:
        """Return the fixed codes: no weight lies between codes."""
        return self._rounded.codes


def run_noise(run: Run, config: RunConfig, keeping: Keeping = KEEPING, *, trials: int = TRIALS) -> None:
    """Evaluate a finished student with noise on its codes, near rounding thresholds and anywhere; write the results.

    The rows of ``noise.parquet`` are one ``none`` (range and trial are 0), then for each range and trial one
    ``boundary`` and one ``random``, see :func:`inject`. ``top1`` in percent and ``loss`` are of the evaluation images;
    ``train_loss`` is the cross-entropy on up to 600 training images, the same ones for all rows. ``injected`` is the
    percentage of weights that the noise was put on. No file of the run is touched.

    Args:
        run: quantized and finished.
        config: of the run.
        keeping: how many runs share a card, if it is measured on one.
        trials: draws for each kind of noise.

    Raises:
        UserError: the run is a teacher or not finished, or one of its files is damaged.

    Source: OFQ paper, table 1.
    """
    if isinstance(config, TeacherConfig):
        raise UserError(f"{run} is a full-precision run: it has no codes to change")
    step = Step(__name__, [*run.teacher.files.taught, run.files.model], aside="noise")
    here = config.model_copy(update={"hardware": hardware_to_measure(config.hardware)})
    with started(run, here, step, keeping) as job:
        tell_where(config.hardware, job.device)
        try:
            student = make_student(job)
            load_weights(student, run.files.model)
            frame = measure(student, job.data, job.device, seed=run.seed, trials=trials)
            seal(frame, digests=job.digests, **job.device.described())
            with replacing(run.files.noise) as temporary:
                frame.to_parquet(temporary, index=False)
        finally:
            states.drop(job.state.directory)  # it holds nothing to go on from
    print(f"{run}: {trials} trials\n{summary(frame)}\nwritten to {run.files.noise}")


def measure(student: nn.Module, data: Batches, device: Device = CPU, *, seed: int, trials: int) -> pd.DataFrame:
    """Measure the rows of ``noise.parquet``; afterwards the student is as before.

    Args:
        student: quantized, with its learned steps.
        data: of its study.
        device: where the student is.
        seed: of the noise and of the choice of training images.
        trials: draws for each kind of noise.
    """
    weights = block_weights(student)
    count = sum(weight.latent().numel() for weight in weights)
    chosen = torch.randperm(data.count, generator=seeded(f"{seed}/training images"))[:TRAIN_IMAGES]
    trained_on = data.of_training(chosen)

    def row(where: str, limit: float, trial: int, injected: int) -> dict[str, Any]:
        top1, loss = evaluate(student, data, device)
        values = [where, limit, trial, 100 * injected / count, top1, loss, evaluate(student, trained_on, device)[1]]
        return dict(zip(_COLUMNS, values, strict=True))

    rows = [row("none", 0.0, 0, 0)]
    for limit, where, trial in product(RANGES, PLACES, range(trials)):
        codes, injected = inject(weights, Noise(seed, trial, where, limit))
        with fixed(codes):
            rows.append(row(where, limit, trial, injected))
    return pd.DataFrame(rows)


@torch.no_grad()
def inject(weights: list[BlockWeight], noise: Noise) -> tuple[dict[Layer, Tensor], int]:
    """Draw codes for the low-bit weights of a model.

    ``boundary``: each weight whose unrounded code u lies within the range of a rounding threshold gets one of the codes
    next to it, floor(u) or floor(u) + 1, with probability 1/2 each. So half of them change, by one code. The result is
    another moment at which oscillation could have been stopped.

    ``random``: in each matrix as many weights are drawn as lie near thresholds there, wherever they lie. With
    probability 1/2 each gets a neighbour of its code, above or below; at an end of the grid there is only one. The
    number of weights that may change, the share that do and the size of a change are as for ``boundary``. This holds
    matrix by matrix, because steps differ between matrices.

    Args:
        weights: of :func:`ofq.quant.block_weights`.
        noise: what to draw.

    Returns:
        Codes of each layer's whole weight (under query-key reparameterization of the product) in its shape, and the
        number of weights that the noise was put on.

    Raises:
        ValueError: ``noise.where`` is none of these.
    """
    draw = {"boundary": _near_thresholds, "random": _anywhere}.get(noise.where)
    if draw is None:
        raise ValueError(f"where must be one of {', '.join(PLACES)}, not {noise.where!r}")
    generator = seeded(f"{noise.seed}/{noise.trial}/{noise.where}/{noise.range}")
    parts: dict[Layer, list[Tensor]] = {}
    injected = 0
    for weight in weights:  # the thirds of qkv follow each other, in the order of its rows
        position = weight.position().cpu()  # the same draws on every device
        near = threshold_distance(position) <= noise.range
        parts.setdefault(weight.layer, []).append(draw(position, near, weight.quantizer.levels(), generator))
        injected += int(near.sum())
    return {layer: torch.cat(codes) for layer, codes in parts.items()}, injected


@contextmanager
def fixed(codes: dict[Layer, Tensor]) -> Iterator[None]:
    """Let layers compute with the given codes, and put their quantizers back afterwards."""
    before: dict[Layer, Quantizer | None] = {layer: layer.weight_quantizer for layer in codes}
    try:
        for layer, replaced in codes.items():
            quantizer = before[layer]
            assert quantizer is not None
            layer.weight_quantizer = FixedQuantizer(quantizer, layer.latent_weight(), replaced)
        yield
    finally:
        for layer, quantizer in before.items():
            layer.weight_quantizer = quantizer


def summary(frame: pd.DataFrame) -> str:
    """Format mean ± standard deviation over trials as a table for people."""
    lines = [f"{'noise':<8} {'range':>5} {'weights':>8} {'top-1, %':>16} {'loss':>16} {'training loss':>16}"]
    for (where, limit), part in frame.groupby(["where", "range"], sort=False):
        spread = [_spread(part[column]) for column in ("top1", "loss", "train_loss")]
        share = part["injected"].iloc[0]
        lines.append(f"{where:<8} {limit:>5} {share:>6.2f} % " + " ".join(f"{text:>16}" for text in spread))
    return "\n".join(lines)


def _spread(values: pd.Series) -> str:
    return f"{values.mean():.3f}" if len(values) == 1 else f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"


def _near_thresholds(position: Tensor, near: Tensor, levels: _Levels, generator: torch.Generator) -> Tensor:
    codes = position.round()
    above = torch.randint(2, (int(near.sum()),), generator=generator)
    codes[near] = position[near].floor() + above
    return codes


def _anywhere(position: Tensor, near: Tensor, levels: _Levels, generator: torch.Generator) -> Tensor:
    codes = position.round()
    flat = codes.view(-1)  # (weights,), a view of the codes
    chosen = torch.randperm(flat.numel(), generator=generator)[: int(near.sum())]
    changes = torch.randint(2, chosen.shape, generator=generator)
    up = 2 * torch.randint(2, chosen.shape, generator=generator) - 1
    low, high = (float(level) for level in levels)
    outside = (flat[chosen] + up < low) | (flat[chosen] + up > high)
    flat[chosen] += changes * torch.where(outside, -up, up)
    return codes
