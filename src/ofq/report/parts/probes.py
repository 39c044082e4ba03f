"""Results of the probes of trained runs: the table ``coupling`` and the figure ``boundary``."""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ofq.config.grid import Grid
from ofq.oscillation.thresholds import HALF_STEP, lift
from ofq.report import collect
from ofq.report.looks import in_panels, looks
from ofq.report.panels import GREY, decade, legend, line, panels, seeds, sideways
from ofq.report.probe import WholeProbe, read_probe
from ofq.report.render import cells, write_table
from ofq.report.style import save
from ofq.runs.paths import Run

_COUPLING = ["q", "k", "lift", "lift_other"]
_BESIDE = 0.04  # code steps; variants stand side by side within a bin
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
    other heads' k_t in place of k_t. Models without attention have no row.
    """
    rows = [_coupling(run, probe) for run, probe in _probes(grid) if probe["coupling"]]
    frame = pd.DataFrame(rows, columns=["run", *collect.KEYS, "codes", *_COUPLING])
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
    """Draw ``figures/boundary.*`` from the probes of runs that are not annealed: a column of panels for each width.

    The last bin holds the clamped weights too, whose gradient is zero in LSQ. Where it lies far from the others, which
    the upper panels are there to show, it is told in words.
    """
    styles, probes = looks(grid), _probes(grid)
    data = collect.spread(by_distance(probes), list(_ROWS), by=[*collect.KEYS, "distance"])
    band = float(probes[0][1]["band"]["range"])
    seen = data["reversals_mean"][data["reversals_mean"] > 0]
    least = decade(seen.min()) if len(seen) else 1.0  # down to this the axis is logarithmic
    names = list(dict.fromkeys(run.variant for run in grid.trained))
    rows = [(model, kind, quantity) for model in grid.models for kind in _kinds(grid, names) for quantity in _ROWS]
    figure, axes = panels(len(grid.bits), len(rows), height=2.2)
    for row, (model, kind, quantity) in zip(axes, rows, strict=True):
        for ax, bits in zip(row, grid.bits, strict=True):
            here = collect.only(data, model=model, bits=bits)
            for name, shift in zip(kind, sideways(len(kind)) * _BESIDE, strict=True):
                part = here[here["variant"] == name]
                part = part if quantity == "reversals" else part.iloc[:-1]
                mean, sd = part[f"{quantity}_mean"], part[f"{quantity}_sd"]
                line(ax, part["distance"] + shift, mean, sd, label=name, linestyle=":", **styles[name])
            ax.axvspan(0, band, color="#999999", linewidth=0, label=f"band of boundary range {band:g}")
            ax.set_xlim(0, HALF_STEP)
            if quantity == "turns":
                ax.axhline(50, color=GREY, linestyle="--", linewidth=1, label="signs drawn at random")
                ax.set_title(f"{model}, {bits.upper()}")
                _tell_last(ax, here[here["variant"].isin(kind)])
        low, high = row[0].get_ylim()
        if quantity == "turns":
            row[0].set_ylim(low - 0.6 * (high - low), high)  # below the lines is what the last bin has
        else:
            row[0].set_yscale("symlog", linthresh=least)
            row[0].set_ylim(-0.3 * least, 3 * high)  # markers at 0 are not cut
        row[0].set_ylabel(_ROWS[quantity])
    for ax in axes[-1]:
        ax.set_xlabel("distance to the nearest\nthreshold, code steps")
    figure.suptitle(
        f"{grid}: a window of training after the end of the run, by a weight's distance to its threshold\n"
        f"mean ± sd over seeds; {seeds(grid)}; annealing trains the weights in the grey band"
    )
    legend(figure, axes)
    save(figure, grid.directory / "figures", "boundary", map(str, grid.trained))


def _kinds(grid: Grid, names: list[str]) -> list[list[str]]:
    """Return the variants by the panel that they share."""
    return [kind for each in in_panels(grid) if (kind := [name for name in each if name in names])]


def _tell_last(ax: Axes, data: pd.DataFrame) -> None:
    """Write at the lower edge what the last bin of each variant has."""
    last = data.groupby("variant", sort=False).tail(1)
    told = textwrap.fill(", ".join(f"{row.variant} {row.turns_mean:.0f}" for row in last.itertuples()), 34)
    text = f"last bin, with the clamped weights, %:\n{told}"
    ax.text(0.98, 0.04, text, transform=ax.transAxes, ha="right", va="bottom", fontsize=7)


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
