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
_CURVES = ("val/top1", "osc/share", "train/loss")
_MOST = 20  # curves in a chart; runs that share a group are one, with a band
_OTHERS = ("val", "osc", "train", "cga", "final", "Model metrics", "System metrics")  # charts that MLflow makes itself
FIRST = "results"
"""Key of the view that a study opens on."""
MAIN = "main"
"""Value of the tag ``group`` of runs in a study's main grid; a further group has its name, and ``none`` is none now."""


def views(logs: list[RunLog]) -> dict[str, str]:
    """Return tags that hold, for each bit width, a view of all results and one that sets LSQ beside StatsQ."""
    students = [log.run for log in logs if "quantization" in log.config]
    if not students:
        return {}
    tags: dict[str, str] = {}
    for bits in sorted({run.bits for run in students}):
        search = f"tags.group = '{MAIN}' and tags.bits = '{bits}'"
        tags |= _view(f"{FIRST}-{bits}" if tags else FIRST, f"Results by variant, {bits}", search)
        variants = {run.variant for run in students if run.bits == bits}
        if set(_PAIR) <= variants:
            # The search has neither "or" nor lists: exclude the other variants.
            others = "".join(f" and tags.variant != '{name}'" for name in sorted(variants - set(_PAIR)))
            tags |= _view(f"lsq-statsq-{bits}", f"{' against '.join(_PAIR.values())}, {bits}", search + others)
    return tags


def _view(key: str, name: str, search: str) -> dict[str, str]:
    """Return a view of means over the seeds of each variant: rows with the runs below them, and curves."""
    state: dict[str, Any] = {
        "searchFilter": search,
        "orderByKey": _COLUMNS[0],
        "orderByAsc": False,
        "selectedColumns": _COLUMNS,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": "variant"}],
        },
        "compareRunCharts": [_curve(metric) for metric in _CURVES],
        "compareRunSections": [_section("curves", shown=True), *(_section(name, shown=False) for name in _OTHERS)],
        "isAccordionReordered": True,
    }
    return {_TAG + key: json.dumps({"name": name, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})}


def _curve(metric: str) -> dict[str, Any]:
    return {
        "uuid": f"curve {metric}",
        "type": "LINE",
        "metricSectionId": "section curves",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "runsCountToCompare": _MOST,
        "xAxisKey": "step",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        "lineSmoothness": 0,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "range": {},
        "isGenerated": False,
        "deleted": False,
    }


def _section(name: str, *, shown: bool) -> dict[str, Any]:
    flags = {"display": shown, "isReordered": True, "deleted": False, "isGenerated": not shown}
    return {"uuid": f"section {name}", "name": name, **flags}
