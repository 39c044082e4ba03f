"""The table ``coupling``: do the codes of query and key turn round together?"""

from pathlib import Path
from typing import Any

import pandas as pd

from ofq.params import Params
from ofq.paths import Run
from ofq.report import collect
from ofq.report.panels import seeds
from ofq.report.render import cells, write_table

_COLUMNS = ["q", "k", "lift", "lift_other"]


def write_coupling(params: Params, study: str, directory: Path) -> None:
    """Write ``tables/coupling.*`` from the probes of the runs that are no annealing: one row a variant.

        lift = sum of mean_t(q_t*k_t) over the heads / sum of mean(q)*mean(k) over the heads

    with q_t and k_t the reversals of a head's query and key codes at step t. ``lift_other`` has the mean of the other
    heads' k_t in the place of k_t.

    Args:
        params: narrowed to the grid.
        study: name.
        directory: of the report.

    Raises:
        UserError: a run's ``probe.json`` is missing or damaged.
    """
    probes = collect.probes(params.trained(study))
    frame = pd.DataFrame([_of_run(run, probe) for run, probe in probes])
    data = collect.spread(frame, _COLUMNS, by=[*collect.KEYS, "codes"])
    shown = pd.DataFrame(
        {
            "model": data["model"],
            "bits": data["bits"],
            "variant": data["variant"],
            "codes": data["codes"],
            "seeds": data["n"],
            "q reversals": cells(data, "q"),
            "k reversals": cells(data, "k"),
            "lift, same head": cells(data, "lift"),
            "lift, other heads": cells(data, "lift_other"),
        }
    )
    caption = (
        f"Study {study}: query and key codes over a window of training after the end of the run; mean ± standard "
        f"deviation over {seeds(params, study)}. Reversals: of the codes of one head, a step, mean over heads. "
        "Lift: how often a head's query and key reversals fall into the same step, over what chance gives if neither "
        "knows of the other: the mean product of the two counts over the product of their means, summed over heads. "
        "1 is no coupling. Other heads are the control: a head's query with the keys of all other heads, which share "
        "no product with it but see the same batch; what is above 1 there comes from the batches, and only what the "
        "same head has beyond it is coupling of query and key. Codes: own, those of the quantized weights; shadow, "
        "where query and key are not quantized by themselves (query-key reparameterization): those that StatsQ would "
        "give their latent weights."
    )
    write_table(directory / "tables", "coupling", data, shown, list(data["runs"]), caption)


def _of_run(run: Run, probe: dict[str, Any]) -> dict[str, Any]:
    heads = pd.DataFrame(probe["coupling"])
    chance = heads["chance"].sum()
    # The only head of a model has no other.
    sums = {name: heads[name].astype(float).sum(skipna=False) for name in ("same", "other")}
    return {
        "run": str(run),
        **{"model": run.model, "bits": run.bits, "variant": run.variant, "codes": probe["coupling_codes"]},
        **{name: heads[name].mean() for name in ("q", "k")},
        "lift": sums["same"] / chance if chance > 0 else float("nan"),
        "lift_other": sums["other"] / chance if chance > 0 else float("nan"),
    }
