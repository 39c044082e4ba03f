"""The figure ``boundary``: what weights do by their distance to the nearest rounding threshold."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ofq.params import Params
from ofq.paths import Run
from ofq.report import collect
from ofq.report.panels import legend, panels, seeds
from ofq.report.style import look, save

_HALF_A_STEP = 0.5  # the largest distance to a threshold, in code steps
_ROWS = {"turns": "steps with a turn\nof the gradient, %", "reversals": "reversals\na step"}


def write_boundary(params: Params, study: str, directory: Path) -> None:
    """Draw ``figures/boundary.*`` from the probes of the runs that are no annealing: one column of panels a bit width.

    Args:
        params: narrowed to the grid.
        study: name.
        directory: of the report.

    Raises:
        UserError: a run's ``probe.json`` is missing or damaged.
    """
    spec = params.studies[study]
    looks = look(list(params.variants))
    runs = params.trained(study)
    probes = collect.probes(runs)
    data = collect.spread(by_distance(probes), list(_ROWS), by=[*collect.KEYS, "distance"])
    band = float(probes[0][1]["band"]["range"])
    grid = [(model, quantity) for model in spec.models for quantity in _ROWS]
    figure, axes = panels(len(spec.bits), len(grid), height=2.4)
    for row, (model, quantity) in zip(axes, grid, strict=True):
        for ax, bits in zip(row, spec.bits, strict=True):
            for name in dict.fromkeys(run.variant for run in runs):
                part = data[(data["model"] == model) & (data["bits"] == bits) & (data["variant"] == name)]
                mean, sd = part[f"{quantity}_mean"], part[f"{quantity}_sd"].fillna(0)
                mean = mean.where(mean > 0)  # none has no place on a logarithmic axis
                ax.errorbar(part["distance"], mean, yerr=sd, label=name, linewidth=1.2, markersize=4, **looks[name])
            ax.axvspan(0, band, color="#999999", linewidth=0, label=f"band of boundary range (BR) {band:g}")
            ax.set_xlim(0, _HALF_A_STEP)
            if quantity == "reversals":
                ax.set_yscale("log")
            else:
                ax.axhline(50, color="#777777", linestyle="--", linewidth=1, label="signs drawn at random")
                ax.set_title(f"{model}, {bits.upper()}")
        row[0].set_ylabel(_ROWS[quantity])
    for ax in axes[-1]:
        ax.set_xlabel("distance to the nearest\nthreshold, code steps")
    figure.suptitle(
        f"{study}: a window of training after the end of the run, mean ± sd over {seeds(params, study)}\n"
        "annealing trains the weights within BR code steps of a threshold",
        fontsize=10,
    )
    legend(figure, axes)
    save(figure, directory / "figures", "boundary", map(str, runs))


def by_distance(probes: list[tuple[Run, dict[str, Any]]]) -> pd.DataFrame:
    """One row a run and bin of the distance: turns of the gradient in percent of the steps, and reversals a step.

    Missing where no weight was.
    """
    frames = []
    for run, probe in probes:
        bins = {name: np.asarray(values, float) for name, values in probe["boundary"].items()}
        steps = np.where(bins["weight_steps"] > 0, bins["weight_steps"], np.nan)
        edges = np.append(bins["left"], _HALF_A_STEP)
        frames.append(
            pd.DataFrame(
                {
                    "distance": ((edges[:-1] + edges[1:]) / 2).round(9),
                    "turns": 100 * bins["gradient_turns"] / steps,
                    "reversals": bins["reversals"] / steps,
                }
            ).assign(run=str(run), model=run.model, bits=run.bits, variant=run.variant)
        )
    return pd.concat(frames, ignore_index=True)
