"""Whether learned steps cross thresholds more often at equal width, row by row instead of run by run.

python -m tools.row_widths digits width        prints a table; the group's runs are finished

Learned steps differ from row to row, and a mean over rows of reversals is not that at their mean width. So here each
row of a weight is compared with itself: a curve of its reversals against its width at the end goes through the runs of
the group's ``curve``, whose steps do not learn, straight between neighbours, and is read at the width that the row has
in the other run. Rows that are wider or narrower there than in all runs of the curve are left out and counted.
"""

import argparse

import numpy as np
import pandas as pd
from torch import nn

from ofq.config import params
from ofq.config.grid import Grid
from ofq.config.resolve import StudentConfig, resolve
from ofq.data import batches
from ofq.models.backbone import build_model
from ofq.models.weights import load_weights
from ofq.oscillation.meter import OscillationMeter
from ofq.quant.convert import quantize_model
from ofq.quant.weights import block_weights
from ofq.report.render import cells, markdown, signed
from ofq.report.widths import on_curve
from ofq.runs import checkpoint
from ofq.runs.paths import Run


def rows_of(student: nn.Module, meter: OscillationMeter) -> pd.DataFrame:
    """Return width and mean reversals of each row of the low-bit weights: columns weights, width, reversals."""
    frames = []
    for weight in block_weights(student):
        reversals = meter.reversals(weight.name).float()  # (rows, columns)
        columns = {"width": weight.step_widths()[:, 0].numpy(), "reversals": reversals.mean(1).numpy()}
        frames.append(pd.DataFrame(columns | {"weights": reversals.shape[1]}))
    return pd.concat(frames, ignore_index=True)


def excess(own: pd.DataFrame, members: list[pd.DataFrame]) -> tuple[float, float]:
    """Compare each row with the curve through the same row of other runs.

    Args:
        own: of one run, from :func:`rows_of`.
        members: of the runs of the curve.

    Returns:
        Reversals of all rows within the range of their curves beyond what these say, in percent of it, and the percent
        of the weights that stand in such rows.
    """
    curves = zip(*(zip(each["width"], each["reversals"], strict=True) for each in members), strict=True)
    expected = np.array([on_curve([width], curve)[0] for width, curve in zip(own["width"], curves, strict=True)])
    inside, weights = ~np.isnan(expected), own["weights"].to_numpy()
    seen, said = ((values * weights)[inside].sum() for values in (own["reversals"].to_numpy(), expected))
    return 100 * (seen / said - 1), 100 * weights[inside].sum() / weights.sum()


def main() -> None:
    """Print the table of a finished group."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], usage="python -m tools.row_widths STUDY GROUP"
    )
    parser.add_argument("study")
    parser.add_argument("group")
    options = parser.parse_args()
    grid = Grid(params.load(), options.study, options.group)
    data = batches.load(grid.study)

    def finished(run: Run) -> pd.DataFrame:
        config = resolve(grid.params, run)
        assert isinstance(config, StudentConfig)
        student = quantize_model(build_model(config, data), config.quantization)
        load_weights(student, run.files.model)
        meter = OscillationMeter()
        meter.load_state_dict(checkpoint.load(run.files.trainer)["recorder"]["meter"])
        return rows_of(student, meter)

    found = []
    for run in grid.trained:
        if run.variant == grid.curve[0]:
            members = [finished(run.sibling(name)) for name in grid.curve]
            for name in dict.fromkeys(each.variant for each in grid.trained if each.variant not in grid.curve):
                beyond, inside = excess(finished(run.sibling(name)), members)
                place = {"model": run.model, "bits": run.bits, "variant": name, "seed": run.seed}
                found.append(place | {"excess": beyond, "inside": inside})
    by = pd.DataFrame(found).groupby(["model", "bits", "variant"], sort=False)[["excess", "inside"]]
    data_of = by.mean().add_suffix("_mean").join(by.std().add_suffix("_sd")).reset_index()
    shown = {
        **data_of[["model", "bits", "variant"]],
        "Δ to the row's own curve, %": cells(data_of, "excess", digits=1, form=signed),
        "weights in rows within its range, %": cells(data_of, "inside", digits=0),
    }
    print(markdown(pd.DataFrame(shown).astype(str)))
    print(f"\nmean ± standard deviation over {grid.seeds_in_words}")


if __name__ == "__main__":
    main()
