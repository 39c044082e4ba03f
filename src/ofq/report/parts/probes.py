"""Results of the probes of trained runs: the table ``coupling`` and the figure ``boundary``."""

from typing import Any

import numpy as np
import pandas as pd

from ofq.config.grid import Grid
from ofq.oscillation.thresholds import HALF_STEP, lift
from ofq.report import collect
from ofq.report.panels import legend, looks, panels
from ofq.report.probe import WholeProbe, read_probe
from ofq.report.render import cells, write_table
from ofq.report.style import save
from ofq.runs.paths import Run

_COUPLING = ["q", "k", "lift", "lift_other"]
_ROWS = {"turns": "steps with a turn\nof the gradient, %", "reversals": "reversals\na step"}


def write_probes(grid: Grid) -> None:
    """Write ``tables/coupling.*`` and ``figures/boundary.*``.

    Args:
        grid: the grid whose report is written.

    Raises:
        UserError: a run's ``probe.json`` is missing or damaged.
    """
    write_coupling(grid)
    write_boundary(grid)


def write_coupling(grid: Grid) -> None:
    """Write ``tables/coupling.*`` from the probes of the runs that are not annealed: one row for each variant.

        lift = sum of mean_t(q_t*k_t) over the heads / sum of mean(q)*mean(k) over the heads

    where q_t and k_t are the reversals of a head's query and key codes at step t. ``lift_other`` has the mean of the
    other heads' k_t in place of k_t.
    """
    frame = pd.DataFrame([_coupling(run, probe) for run, probe in _probes(grid)])
    data = collect.spread(frame, _COUPLING, by=[*collect.KEYS, "codes"])
    shown = {
        **data[[*collect.KEYS, "codes"]],
        "seeds": data["n"],
        "q reversals": cells(data, "q"),
        "k reversals": cells(data, "k"),
        "lift, same head": cells(data, "lift"),
        "lift, other heads": cells(data, "lift_other"),
    }
    caption = (
        f"Study {grid.study}: query and key codes over a window of training after the end of the run; mean ± standard "
        f"deviation over {grid.seeds_in_words}. Reversals: of the codes of one head, a step, mean over heads. "
        "Lift: how often a head's query and key reversals fall into the same step, over what chance gives if neither "
        "knows of the other: the mean product of the two counts over the product of their means, summed over heads. "
        "1 is no coupling. Other heads are the control: a head's query with the keys of all other heads, which share "
        "no product with it but see the same batch; what is above 1 there comes from the batches, and only what the "
        "same head has beyond it is coupling of query and key. Codes: own, those of the quantized weights; shadow, "
        "where query and key are not quantized by themselves (query-key reparameterization): those that StatsQ would "
        "give their latent weights."
    )
    write_table(grid.directory / "tables", "coupling", data, shown, list(data["runs"]), caption)


def _probes(grid: Grid) -> list[tuple[Run, dict[str, Any]]]:
    return [(run, read_probe(run.files.probe, WholeProbe)) for run in grid.trained]


def _coupling(run: Run, probe: dict[str, Any]) -> dict[str, Any]:
    heads = probe["coupling"]
    return {
        **collect.coordinates(run),
        "codes": probe["coupling_codes"],
        **{side: np.mean([head[side] for head in heads]) for side in ("q", "k")},
        "lift": lift(heads, "same"),
        "lift_other": lift(heads, "other"),
    }


def write_boundary(grid: Grid) -> None:
    """Draw ``figures/boundary.*`` from the probes of runs that are not annealed: a column of panels for each width."""
    styles, probes = looks(grid), _probes(grid)
    data = collect.spread(by_distance(probes), list(_ROWS), by=[*collect.KEYS, "distance"])
    band = float(probes[0][1]["band"]["range"])
    rows = [(model, quantity) for model in grid.models for quantity in _ROWS]
    figure, axes = panels(len(grid.bits), len(rows), height=2.4)
    for row, (model, quantity) in zip(axes, rows, strict=True):
        for ax, bits in zip(row, grid.bits, strict=True):
            for name in dict.fromkeys(run.variant for run in grid.trained):
                part = collect.only(data, model=model, bits=bits, variant=name)
                mean, sd = part[f"{quantity}_mean"], part[f"{quantity}_sd"].fillna(0)
                mean = mean.where(mean > 0)  # a logarithmic axis has no place for 0
                ax.errorbar(part["distance"], mean, yerr=sd, label=name, linewidth=1.2, markersize=4, **styles[name])
            ax.axvspan(0, band, color="#999999", linewidth=0, label=f"band of boundary range (BR) {band:g}")
            ax.set_xlim(0, HALF_STEP)
            if quantity == "reversals":
                ax.set_yscale("log")
            else:
                ax.axhline(50, color="#777777", linestyle="--", linewidth=1, label="signs drawn at random")
                ax.set_title(f"{model}, {bits.upper()}")
        row[0].set_ylabel(_ROWS[quantity])
    for ax in axes[-1]:
        ax.set_xlabel("distance to the nearest\nthreshold, code steps")
    figure.suptitle(
        f"{grid.study}: a window of training after the end of the run, mean ± sd over {grid.seeds_in_words}\n"
        "annealing trains the weights within BR code steps of a threshold\n"
        "the last bin holds the clamped weights too, whose gradient is zero in LSQ"
    )
    legend(figure, axes)
    save(figure, grid.directory / "figures", "boundary", map(str, grid.trained))


def by_distance(probes: list[tuple[Run, dict[str, Any]]]) -> pd.DataFrame:
    """Return one row for each run and bin of distance: gradient turns in percent of the steps, and reversals a step.

    Both are missing where there was no weight.
    """
    frames = []
    for run, probe in probes:
        bins = {name: np.asarray(values, float) for name, values in probe["boundary"].items()}
        steps = np.where(bins["weight_steps"] > 0, bins["weight_steps"], np.nan)
        edges = np.append(bins["left"], HALF_STEP)
        frames.append(
            pd.DataFrame(
                {
                    **collect.coordinates(run),
                    "distance": ((edges[:-1] + edges[1:]) / 2).round(9),
                    "turns": 100 * bins["gradient_turns"] / steps,
                    "reversals": bins["reversals"] / steps,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)
