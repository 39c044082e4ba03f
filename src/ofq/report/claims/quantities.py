"""The quantities of a run that claims compare: where each is read, and its unit.

A quantity is None if the run is not finished, or was not measured in the way that the quantity needs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ofq.errors import UserError, unknown
from ofq.oscillation.thresholds import DISTANCE_BINS, HALF_STEP, POSITION_BIN, lift, threshold_distance
from ofq.report.collect import read_record
from ofq.runs.files import read_json
from ofq.runs.paths import TEACHER, Run

WHERE = ("boundary", "random")

# Half-widths in code steps of the two windows around a threshold whose densities `threshold_density` compares.
_AT, _AROUND = 0.05, 0.25


class Lacking(UserError):
    """A finished run does not have what a claim compares; names the nearest that it has."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a measure of the runs of a variant, or its gain over another variant.

    Attributes:
        measure: name in :data:`MEASURES`.
        variant: variant of the runs; ``teacher`` for the teachers of the other side's runs.
        over: the variant whose quantity is subtracted, or None.
        bits: bit width of this side alone, or None for those of the claim.
        layers: groups of layers, such as q and k; None for all low-bit weights.
        within: least and largest distance to the nearest rounding threshold, in code steps.
        where: which weights the noise moved.
    """

    measure: str
    variant: str
    over: str | None = None
    bits: str | None = None
    layers: Sequence[str] | None = None
    within: Sequence[float] | None = None
    where: str | None = None

    @property
    def variants(self) -> list[str]:
        """Names of the variants whose runs the side needs, at its own bit width."""
        return [] if self.variant == TEACHER else [self.variant, *([self.over] if self.over else [])]


class Records:
    """The files of runs, each read once."""

    def __init__(self) -> None:
        self._read: dict[Path, Any] = {}

    def json(self, path: Path) -> Any:
        """Return the content of a JSON file, or None if it does not exist."""
        return self._once(path, read_json)

    def table(self, path: Path) -> pd.DataFrame | None:
        """Return the content of a Parquet file, or None if it does not exist."""
        return self._once(path, read_record)

    def _once(self, path: Path, read: Callable[[Path], Any]) -> Any:
        if path not in self._read:
            self._read[path] = read(path) if path.exists() else None
        return self._read[path]


Read = Callable[[Records, Run, Side], float | None]


@dataclass(frozen=True)
class Measure:
    """One kind of quantity.

    Attributes:
        unit: unit of the difference of two of them.
        read: returns the quantity of a finished run, or None.
        takes: names of the options that it accepts.
        needs: name of the option that it requires, or None.
    """

    unit: str
    read: Read
    takes: frozenset[str] = frozenset()
    needs: str | None = None


def quantity(records: Records, run: Run, side: Side) -> float | None:
    """Return what a side compares of a run, or None if it is not finished, not measured that way, or no finite number.

    Raises:
        Lacking: the run does not have the layers.
        UserError: a file is damaged.
    """
    if records.json(run.files.metrics) is None:
        return None
    value = MEASURES[side.measure].read(records, run, side)
    return value if value is not None and math.isfinite(value) else None


def _metric(key: str) -> Read:
    def read(records: Records, run: Run, side: Side) -> float | None:
        value = records.json(run.files.metrics).get(key)
        return None if value is None else float(value)

    return read


def _oscillation(key: str, column: str) -> Read:
    """Read the value of all low-bit weights from the metrics, of groups of layers from the last step of the record."""
    whole = _metric(key)

    def read(records: Records, run: Run, side: Side) -> float | None:
        if not side.layers:
            return whole(records, run, side)
        record = records.table(run.files.oscillation)
        if record is None:
            return None
        groups = set(record["group"])
        for name in side.layers:
            if name not in groups:
                raise Lacking(str(unknown(f"layers in {run.files.oscillation}:", name, groups)))
        rows = record[(record["step"] == record["step"].max()) & record["group"].isin(side.layers)]
        return float(np.average(rows[column], weights=rows["weights"]))

    return read


def _threshold_density(records: Records, run: Run, side: Side) -> float | None:
    """Return the density of latent weights within 0.05 code steps of a threshold over that within 0.25; 1 if even.

    A smooth distribution gives 1 to within a few thousandths, whatever its width, because a threshold lies in the
    middle of both windows. A comparison with all weights would see the shape of the distribution instead.
    """
    record = records.table(run.files.weights)
    if record is None:
        return None
    distance = threshold_distance(record["bin_left"].to_numpy() + POSITION_BIN / 2)
    counts = record["weights"].to_numpy()
    around = counts[distance < _AROUND].sum() / _AROUND
    return float(counts[distance < _AT].sum() / _AT / around) if around else None


def _gradient_turns(records: Records, run: Run, side: Side) -> float | None:
    """Return the percent of steps at which a gradient has another sign than a step before, in a range of distances."""
    boundary = _probe(records, run, "boundary")
    if boundary is None or side.within is None:
        return None
    low, high = side.within
    width = HALF_STEP / DISTANCE_BINS
    # Floats do not hold the edges of bins exactly.
    inside = [low - 1e-9 <= left and left + width <= high + 1e-9 for left in boundary["left"]]
    steps, turns = (int(np.asarray(boundary[name])[inside].sum()) for name in ("weight_steps", "gradient_turns"))
    return 100.0 * turns / steps if steps else None


def _band_kept(records: Records, run: Run, side: Side) -> float | None:
    """Return the percent of the weights in the band around thresholds at the start that are also in it at the end."""
    band = _probe(records, run, "band")
    return 100.0 * band["both"] / band["start"] if band and band["start"] else None


def _coupling(key: str) -> Read:
    return lambda records, run, side: lift(_probe(records, run, "coupling") or [], key)


def _noise(of: Callable[[pd.DataFrame, pd.Series], float]) -> Read:
    """Read a quantity from the trials with noise at the chosen weights, at every range, and the model without noise."""

    def read(records: Records, run: Run, side: Side) -> float | None:
        record = records.table(run.files.noise)
        if record is None:
            return None
        still, trials = record[record["where"] == "none"], record[record["where"] == side.where]
        return None if still.empty or trials.empty else float(of(trials, still.iloc[0]))

    return read


def _step_travel(records: Records, run: Run, side: Side) -> float | None:
    """Return the path of quantizer steps over an annealed run's last quarter, per mille of the step; mean of layers."""
    record = records.table(run.files.annealing)
    if record is None:
        return None
    last = record[record["step"] > 0.75 * record["step"].max()].sort_values("step")
    paths = [1000.0 * part.diff().abs().sum() / part.mean() for _, part in last.groupby("layer")["scale"]]
    return float(np.mean(paths))


def _probe(records: Records, run: Run, part: str) -> Any:
    """Return a part of the run's probe, or None if there is none."""
    return (records.json(run.files.probe) or {}).get(part)


_BY_LAYER, _BY_PLACE = frozenset({"layers"}), frozenset({"where"})
MEASURES: dict[str, Measure] = {
    "top1": Measure("points", _metric("top1")),
    "top1_best": Measure("points", _metric("top1_best")),
    "loss": Measure("nats", _metric("loss")),
    "osc_share": Measure("points", _oscillation("osc_share", "share"), _BY_LAYER),
    "reversals": Measure("reversals a weight", _oscillation("reversals", "reversals"), _BY_LAYER),
    "threshold_density": Measure("times the density around", _threshold_density),
    "gradient_turns": Measure("points", _gradient_turns, frozenset({"within"}), "within"),
    "band_kept": Measure("points", _band_kept),
    "coupling": Measure("times chance", _coupling("same")),
    "coupling_other": Measure("times chance", _coupling("other")),
    "step_travel": Measure("per mille", _step_travel),
    "noise_top1": Measure("points", _noise(lambda t, still: t["top1"].mean() - still["top1"]), _BY_PLACE, "where"),
    "noise_improved": Measure(
        "points",
        _noise(lambda t, still: 100.0 * (t["train_loss"] < still["train_loss"]).mean()),
        _BY_PLACE,
        "where",
    ),
    "noise_best_loss": Measure(
        "nats", _noise(lambda t, still: t["train_loss"].min() - still["train_loss"]), _BY_PLACE, "where"
    ),
}
"""The measures that claims can compare, by name; docs/claims.md says what each means."""
# The measures that a teacher has too.
OF_TEACHERS = {"top1", "top1_best", "loss"}
