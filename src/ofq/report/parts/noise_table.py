"""The table ``noise``: what happens to finished models when some of their codes are changed at random."""

import pandas as pd

from ofq.config.grid import Grid
from ofq.report import collect
from ofq.report.paper import NOISE
from ofq.report.render import cells, write_table

_PLACES = ["none", "random", "boundary"]
_ROW = [*collect.KEYS, "where", "range", "trials"]
_COLUMNS = ["injected", "top1", "top1_trials", "loss", "train_loss", "better"]


def write_noise_table(grid: Grid) -> None:
    """Write ``tables/noise.*``: one row for each model, bit width, variant, place of the noise and boundary range.

    Each seed's trials are averaged first; mean and deviation are then taken over the seeds' means. Annealed variants
    are not measured with noise and have no rows.

    Args:
        grid: the grid whose report is written.

    Raises:
        UserError: a run's ``noise.parquet`` is missing or damaged.
    """
    record = collect.records(grid.trained, "noise")
    data = collect.spread(_of_seeds(record), _COLUMNS, by=_ROW).drop(columns="top1_trials_sd")
    data = data.rename(columns={"top1_trials_mean": "top1_sd_of_trials"})
    converged = data["where"] == "none"
    shown = {
        **data[[*collect.KEYS, "where"]],
        "range": data["range"].map("{:g}".format).mask(converged, "–"),
        "seeds": data["n"],
        "trials": data["trials"],
        "injected %": data["injected_mean"].map("{:.2f}".format),
        "top-1 %": cells(data, "top1"),
        "sd of trials": [f"{sd:.2f}" if pd.notna(sd) else "–" for sd in data["top1_sd_of_trials"]],
        "cross-entropy": cells(data, "loss", digits=3),
        "training cross-entropy": cells(data, "train_loss", digits=3),
        "better trials %": cells(data, "better", digits=0),
        "paper, ImageNet top-1 %": "–",
    }
    caption = (
        f"As the paper's Table 1. Study {grid}: finished models with noise on their codes, evaluated on the "
        f"{grid.data.evaluate} images of {grid.data.title}. Where: none, the model as it converged; boundary, on the "
        "weights within the range of a "
        "rounding threshold, in code steps; random, on as many weights of the same matrices anywhere. Each of them "
        "keeps its code or gets a neighbouring one, with probability 1/2 each. Injected: the share of the low-bit "
        f"weights that these are. ± is the standard deviation over {grid.seeds_in_words} of the means over "
        "trials; sd of trials, the deviation within a seed, mean over seeds. Training cross-entropy: on a fixed set of "
        "training images. Better trials: the share of those in which it is below that of the converged model, so that "
        f"a better model was near. {NOISE}"
    )
    write_table(grid.directory / "tables", "noise", data, shown, list(data["runs"]), caption)


def _of_seeds(record: pd.DataFrame) -> pd.DataFrame:
    """Return the means over the trials of each run, place and range, ordered by run, range and place.

    ``better`` is the percentage of trials whose training cross-entropy is lower than without noise.
    """
    record = record.assign(range=record["range"].fillna(0.0), top1_trials=record["top1"])
    converged = record[record["where"] == "none"].groupby("run")["train_loss"].mean()
    lower = record["train_loss"] < record["run"].map(converged)
    record["better"] = lower.mul(100.0).mask(record["where"] == "none")
    record["run_place"], record["place"] = pd.factorize(record["run"])[0], record["where"].map(_PLACES.index)
    keys = ["run_place", "range", "place", *collect.KEYS, "run", "where"]
    columns = {name: (name, "mean") for name in _COLUMNS} | {"top1_trials": ("top1", "std"), "trials": ("top1", "size")}
    return record.groupby(keys).agg(**columns).reset_index()
