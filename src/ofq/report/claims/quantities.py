"""The quantities of a run that claims compare: where each is read, and its unit.

A quantity is None if the run is not finished, or was not measured in the way that the quantity needs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ofq.errors import UserError, unknown
from ofq.oscillation.thresholds import DISTANCE_BINS, HALF_STEP, POSITION_BIN, lift, threshold_distance
from ofq.report.collect import read_record
from ofq.report.probe import read_probe
from ofq.report.widths import WIDTHS, on_curve, step_width
from ofq.runs.files import AGAIN
from ofq.runs.paths import TEACHER, Run
from ofq.runs.published import read_metrics

WHERE = ("boundary", "random")

# Half-widths in code steps of the two windows around a threshold whose densities `threshold_density` compares.
_AT, _AROUND = 0.05, 0.25


class Lacking(UserError):
    """A finished run does not have what a claim compares; names the nearest that it has."""


class OutsideError(Exception):
    """A run's step is wider or narrower than all those that a curve goes through."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a measure of the runs of a variant, its gain over another one, or a curve's value.

    Attributes:
        measure: name in :data:`MEASURES`.
        variant: variant of the runs; ``teacher`` for the teachers of the other side's runs.
        over: the variant whose quantity is subtracted, or None.
        bits: bit width of this side alone, or None for those of the claim.
        layers: groups of layers, such as q and k; None for all low-bit weights.
        within: least and largest distance to the nearest rounding threshold, in code steps.
        where: which weights the noise moved.
        curve: variants of several step widths; the quantity is that of the curve through them at the width of
            ``variant``.
    """

    measure: str
    variant: str
    over: str | None = None
    bits: str | None = None
    layers: Sequence[str] | None = None
    within: Sequence[float] | None = None
    where: str | None = None
    curve: Sequence[str] | None = None

    @property
    def variants(self) -> list[str]:
        """Names of the variants whose runs the side needs, at its own bit width."""
        further = [*([self.over] if self.over else []), *(self.curve or ())]
        return [] if self.variant == TEACHER else [self.variant, *further]


class Records:
    """The files of runs, each read once."""

    def __init__(self) -> None:
        self._read: dict[Path, Any] = {}

    def read(self, path: Path) -> Any:
        """Return the content of a JSON file or the table in a Parquet file, or None if there is no such file."""
        if path not in self._read:
            self._read[path] = _READERS.get(path.name, read_record)(path) if path.exists() else None
        return self._read[path]


_READERS: dict[str, Callable[[Path], Any]] = {
    "metrics.json": lambda path: read_metrics(path, "seed"),
    "probe.json": read_probe,
}
Read = Callable[[Any, Side], float | None]


@dataclass(frozen=True)
class Measure:
    """One kind of quantity.

    Attributes:
        unit: unit of the difference of two of them.
        file: which file of a run it is read from; of groups of layers it is read from ``oscillation``.
        read: returns the quantity from the content of that file, or None.
        takes: name of the option that it accepts, or None.
        needs: name of the option that it requires, or None.
        width: when the step width is taken at which a curve of it is read; None if it has no curve.
    """

    unit: str
    file: str
    read: Read
    takes: str | None = None
    needs: str | None = None
    width: str | None = None


def quantity(records: Records, run: Run, side: Side) -> float | None:
    """Return what a side compares of a run, or None if it is not finished, not measured that way, or no finite number.

    Raises:
        Lacking: the run does not have the layers.
        UserError: a file is damaged.
    """
    if side.curve:
        return _on_curve(records, run, side)
    measure = MEASURES[side.measure]
    path = run.files.oscillation if side.layers else getattr(run.files, measure.file)
    if records.read(run.files.metrics) is None or (content := records.read(path)) is None:
        return None
    for name in side.layers or ():
        if name not in (groups := set(content["group"])):
            raise Lacking(str(unknown(f"layers in {path}:", name, groups)))
    try:
        value = measure.read(content, side)
    except KeyError as error:
        raise UserError(f"{path} has no {error}; {AGAIN}") from None
    return float(value) if value is not None and math.isfinite(value) else None


def _on_curve(records: Records, run: Run, side: Side) -> float | None:
    """Return the value at the run's own width of the curve through the runs of the same model, bits and seed.

    Raises:
        OutsideError: the run's width lies outside the curve's range.
    """
    plain = replace(side, curve=None)
    width = replace(plain, measure=f"step_width_{MEASURES[side.measure].width}")
    own, *widths = [quantity(records, run.sibling(name), width) for name in (run.variant, *(side.curve or ()))]
    values = [quantity(records, run.sibling(name), plain) for name in side.curve or ()]
    points = [(x, y) for x, y in zip(widths, values, strict=True) if x is not None and y is not None]
    if own is None or len(points) < len(widths):
        return None
    value = float(on_curve([own], points)[0])
    if math.isnan(value):
        raise OutsideError
    return value


def _metric(key: str) -> Read:
    return lambda metrics, side: metrics.get(key)


def _oscillation(key: str, column: str) -> Read:
    """Read the value of all low-bit weights from the metrics, of groups of layers from the last step of the record."""

    def read(content: Any, side: Side) -> float | None:
        if not side.layers:
            return content.get(key)
        rows = content[(content["step"] == content["step"].max()) & content["group"].isin(side.layers)]
        return float(np.average(rows[column], weights=rows["weights"]))

    return read


def _reestimation_gain(metrics: dict[str, float], side: Side) -> float | None:
    """Return by how much re-estimated statistics of batch norms raise accuracy, mean over the last evaluations."""
    restored, running = metrics.get("top1_reestimated_last"), metrics.get("top1_last")
    return None if restored is None or running is None else restored - running


def _divergence(record: pd.DataFrame, side: Side) -> float | None:
    """Return the mean over channels of what running statistics diverge from re-estimated ones at the last step."""
    if "kl_mean" not in record:
        return None
    rows = record[(record["step"] == record["step"].max()) & record["kl_mean"].notna()]
    rows = rows[rows["group"].isin(side.layers)] if side.layers else rows
    return None if rows.empty else float(np.average(rows["kl_mean"], weights=rows["channels"]))


def _step_width(when: str) -> Read:
    def read(record: pd.DataFrame, side: Side) -> float | None:
        return step_width(record[record["group"].isin(side.layers)] if side.layers else record, when)

    return read


def _threshold_density(weights: pd.DataFrame, side: Side) -> float | None:
    """Return the density of latent weights within 0.05 code steps of a threshold over that within 0.25; 1 if even.

    A smooth distribution gives 1 to within a few thousandths, whatever its width, because a threshold lies in the
    middle of both windows. A comparison with all weights would see the shape of the distribution instead.
    """
    distance = threshold_distance(weights["bin_left"].to_numpy() + POSITION_BIN / 2)
    counts = weights["weights"].to_numpy()
    around = counts[distance < _AROUND].sum() / _AROUND
    return float(counts[distance < _AT].sum() / _AT / around) if around else None


def _gradient_turns(probe: dict[str, Any], side: Side) -> float | None:
    """Return the percent of steps at which a gradient has another sign than a step before, in a range of distances."""
    if (boundary := probe.get("boundary")) is None or side.within is None:
        return None
    low, high = side.within
    width = HALF_STEP / DISTANCE_BINS
    # Floats do not hold the edges of bins exactly.
    inside = [low - 1e-9 <= left and left + width <= high + 1e-9 for left in boundary["left"]]
    steps, turns = (int(np.asarray(boundary[name])[inside].sum()) for name in ("weight_steps", "gradient_turns"))
    return 100.0 * turns / steps if steps else None


def _band_kept(probe: dict[str, Any], side: Side) -> float | None:
    """Return the percent of the weights in the band around thresholds at the start that are also in it at the end."""
    band = probe.get("band")
    return 100.0 * band["both"] / band["start"] if band and band["start"] else None


def _coupling(key: str) -> Read:
    return lambda probe, side: lift(probe.get("coupling", []), key)


def _noise(of: Callable[[pd.DataFrame, pd.Series], float]) -> Read:
    """Read a quantity from the trials with noise at the chosen weights, at every range, and the model without noise."""

    def read(noise: pd.DataFrame, side: Side) -> float | None:
        still, trials = noise[noise["where"] == "none"], noise[noise["where"] == side.where]
        return None if still.empty or trials.empty else float(of(trials, still.iloc[0]))

    return read


def _step_travel(annealing: pd.DataFrame, side: Side) -> float | None:
    """Return the path of quantizer steps over an annealed run's last quarter, per mille of the step; mean of layers."""
    last = annealing[annealing["step"] > 0.75 * annealing["step"].max()].sort_values("step")
    paths = [1000.0 * part.diff().abs().sum() / part.mean() for _, part in last.groupby("layer")["scale"]]
    return float(np.mean(paths))


MEASURES: dict[str, Measure] = {
    "top1": Measure("points", "metrics", _metric("top1"), width="run"),
    "top1_best": Measure("points", "metrics", _metric("top1_best")),
    **{
        f"{name}{part}": Measure("points", "metrics", _metric(f"{name}{part}"))
        for name, parts in {"top1": ("_last", "_last_sd"), "top1_reestimated": ("", "_last", "_last_sd")}.items()
        for part in parts
    },
    "reestimation_gain": Measure("points", "metrics", _reestimation_gain),
    "kl": Measure("nats", "oscillation", _divergence, takes="layers"),
    "loss": Measure("nats", "metrics", _metric("loss"), width="run"),
    "osc_share": Measure("points", "metrics", _oscillation("osc_share", "share"), takes="layers", width="end"),
    "reversals": Measure(
        "reversals a weight", "metrics", _oscillation("reversals", "reversals"), takes="layers", width="run"
    ),
    **{
        f"step_width_{when}": Measure("standard deviations", "oscillation", _step_width(when), takes="layers")
        for when in WIDTHS
    },
    "threshold_density": Measure("times the density around", "weights", _threshold_density),
    "gradient_turns": Measure("points", "probe", _gradient_turns, needs="within"),
    "band_kept": Measure("points", "probe", _band_kept),
    "coupling": Measure("times chance", "probe", _coupling("same")),
    "coupling_other": Measure("times chance", "probe", _coupling("other")),
    "step_travel": Measure("per mille", "annealing", _step_travel),
    "noise_top1": Measure("points", "noise", _noise(lambda t, base: t["top1"].mean() - base["top1"]), needs="where"),
    "noise_improved": Measure(
        "points", "noise", _noise(lambda t, base: 100.0 * (t["train_loss"] < base["train_loss"]).mean()), needs="where"
    ),
    "noise_best_loss": Measure(
        "nats", "noise", _noise(lambda t, base: t["train_loss"].min() - base["train_loss"]), needs="where"
    ),
}
"""The measures that claims can compare, by name; docs/claims.md says what each means."""
# The measures that a teacher has too.
OF_TEACHERS = {"top1", "top1_best", "loss"}
