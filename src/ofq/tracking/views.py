"""Saved views of an experiment, which `mlflow ui` lists under "Views": the comparisons that a study is made for.

MLflow keeps them as tags of the experiment. A version that reads the tags differently shows no views; nothing else
changes.
"""

import json
from typing import Any

from ofq.tracking.logs import RunLog

_TAG = "mlflow.sharedViewState."
_PAIR = {"lsq": "LSQ", "statsq": "StatsQ"}
_COLUMNS = ["metrics.`final/top1`", "metrics.`final/osc_share`", "metrics.`final/reversals`"]


def views(logs: list[RunLog]) -> dict[str, str]:
    """Return tags that hold one view of all results, and for each bit width one that sets LSQ beside StatsQ."""
    students = [log.run for log in logs if "quantization" in log.config]
    if not students:
        return {}
    tags = _view("results", "Results by bits and variant", "tags.qkr != ''", ["bits", "variant"])
    for bits in sorted({run.bits for run in students}):
        variants = {run.variant for run in students if run.bits == bits}
        if set(_PAIR) <= variants:
            # The search has neither "or" nor lists: exclude the other variants.
            others = [f"tags.variant != '{name}'" for name in sorted(variants - set(_PAIR))]
            search = " and ".join([f"tags.bits = '{bits}'", *others])
            tags |= _view(f"lsq-statsq-{bits}", f"{' against '.join(_PAIR.values())}, {bits}", search, ["variant"])
    return tags


def _view(key: str, name: str, search: str, groups: list[str]) -> dict[str, str]:
    """Return a view whose rows are means over the runs that share the given tags, with the runs below them."""
    state: dict[str, Any] = {
        "searchFilter": search,
        "orderByKey": _COLUMNS[0],
        "orderByAsc": False,
        "selectedColumns": _COLUMNS,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": group} for group in groups],
        },
    }
    return {_TAG + key: json.dumps({"name": name, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})}
