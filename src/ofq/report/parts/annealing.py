"""The figure ``annealing``: how many weights are left in the band while annealing goes on."""

from pathlib import Path

import pandas as pd

from ofq.config.params import Params
from ofq.errors import UserError
from ofq.report import collect
from ofq.report.panels import crowded, legend, line, panels
from ofq.report.style import look, save


def bands(params: Params, study: str) -> dict[str, float]:
    """Boundary range in code steps of each variant that anneals with a band; continued runs without one are left out.

    Raises:
        UserError: the grid has no such variant.
    """
    if not (found := params.bands(study)):
        raise UserError(f"study {study} has no variant here that anneals with a boundary range; name one")
    return found


def left_in_band(record: pd.DataFrame) -> pd.DataFrame:
    """Weights that were free to train, in percent of those that annealing governs, as the column ``left``.

    Args:
        record: ``annealing.parquet`` of some runs.

    Returns:
        One row a run and step.
    """
    sums = record.groupby([*collect.KEYS, "run", "seed", "step"], sort=False)[["free", "weights"]].sum()
    return (100 * sums["free"] / sums["weights"]).rename("left").reset_index()


def write_annealing(params: Params, study: str, directory: Path) -> None:
    """Draw ``figures/annealing.*``: one line a variant, one panel a model and bit width.

    Args:
        params: narrowed to the grid.
        study: name.
        directory: of the report.

    Raises:
        UserError: no variant anneals with a band, or a run's ``annealing.parquet`` is missing or damaged.
    """
    spec = params.studies[study]
    names = bands(params, study)
    looks = look(list(params.variants))
    record = collect.records([run for run in collect.student_runs(params, study) if run.variant in names], "annealing")
    data = collect.spread(left_in_band(record), ["left"], by=[*collect.KEYS, "step"])
    one = 100 / record.groupby(["run", "step"])["weights"].sum().max()
    columns = 1 if crowded(list(names)) else len(spec.bits)
    grid = [(model, bits) for model in spec.models for bits in spec.bits]
    figure, axes = panels(columns, len(grid) // columns, height=3.0, sharey=True)
    for ax, (model, bits) in zip(axes.flat, grid, strict=True):
        for place, name in enumerate(names):
            part = data[(data["model"] == model) & (data["bits"] == bits) & (data["variant"] == name)]
            # Markers of different variants stand at different steps: lines that coincide are told apart.
            every = max(1, len(part) // 10)
            marks = (place * every // len(names), every)
            line(ax, part["step"], part["left_mean"], part["left_sd"], looks[name], label=name, markevery=marks)
        # Logarithmic down to one weight, below which there is only none.
        ax.set_yscale("symlog", linthresh=one)
        ax.set_ylim(bottom=-0.2 * one)
        ax.set_title(f"{model}, {bits.upper()}")
    for ax in axes[:, 0]:
        ax.set_ylabel("weights in the band\nround a threshold, %")
    for ax in axes[-1]:
        ax.set_xlabel("step of annealing")
    figure.suptitle(
        f"{study}: weights that annealing still trains, mean ± sd over {collect.seeds(params, study)}", fontsize=10
    )
    legend(figure, axes)
    save(figure, directory / "figures", "annealing", record["run"])
