"""A study for tests of claims, and files of runs that were never trained."""

import copy
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ofq.config.params import Params
from ofq.runs.files import write_json
from ofq.runs.paths import Run
from tests.inputs.settings import BASE

_STUDY = {
    "models": ["vit"],
    "bits": ["w2a2", "w3a3"],
    "variants": ["a", "b", "c"],
    "seeds": [0, 1, 2],
    "groups": {},
    "learning_rates": None,
}


def params(**study: Any) -> Params:
    """Parameters with one study, `plain`, of three variants that differ by name only."""
    content = copy.deepcopy(BASE)
    content["studies"] = {"plain": content["studies"]["plain"] | _STUDY | study}
    content["models"]["other"] = content["models"]["vit"]
    content["variants"] = {name: {"weight": "statsq"} for name in "abcd"}
    return Params.model_validate(content)


def run(variant: str, seed: int, bits: str = "w2a2", model: str = "vit") -> Run:
    return Run("plain", model, bits, variant, seed)


def finish(one: Run, **metrics: float) -> None:
    """Write the metrics of a run."""
    write_json(one.files.metrics, {"seed": one.seed, "steps": 10, **metrics})


def finish_all(variant: str, values: Mapping[str, list[float]], metric: str = "top1") -> None:
    """Finish the runs of a variant: by bit width, one value a seed."""
    for bits, numbers in values.items():
        for seed, number in enumerate(numbers):
            finish(run(variant, seed, bits), **{metric: number})


def write_parquet(one: Run, name: str, rows: list[dict[str, Any]]) -> None:
    one.files.root.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(one.files.root / name)


def claim(**entries: Any) -> dict[str, Any]:
    """An entry of claims.yaml: `a` has a higher top1 than `b`."""
    entry = {
        "topic": "accuracy",
        "statement": "a is more accurate than b.",
        "source": "nobody",
        "measure": "top1",
        "of": {"variant": "a"},
        "against": {"variant": "b"},
        "expect": "above",
    }
    return {key: value for key, value in (entry | entries).items() if value is not None}
