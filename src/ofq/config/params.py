"""The type of the whole ``params.yaml``, and the function that reads it.

Everything that reads the file calls :func:`load`, so a mistake in it gives one line with the nearest right name.
``params.schema.json``, which editors use, is generated from these types (``python -m ofq schema``).
"""

import json
from pathlib import Path

from pydantic import Field, model_validator

from ofq.config.checks import check_references
from ofq.config.quant_config import Strict
from ofq.config.settings import ModelSettings, Name, Recipe, Variant
from ofq.config.studies import Study
from ofq.config.yaml_model import read_model
from ofq.errors import UserError, unknown
from ofq.runs.paths import PARAMS
from ofq.runs.registry import find, problem


class Params(Strict):
    """The whole of ``params.yaml``."""

    study: Name = Field(description="the study that a bare `snakemake` builds")
    studies: dict[Name, Study] = Field(description="grids of runs, each with tables and figures of its own")
    recipes: dict[Name, Recipe] = Field(description="sets of hyper-parameters")
    models: dict[Name, ModelSettings] = Field(description="backbones")
    variants: dict[Name, Variant] = Field(description="what is compared: sets of switches")

    @model_validator(mode="after")
    def _references_exist(self) -> "Params":
        check_references(self)
        return self

    def study_named(self, name: str) -> Study:
        """Return the study of that name, or raise :class:`UserError` with the nearest one."""
        if name not in self.studies:
            raise unknown("study", name, self.studies)
        return self.studies[name]

    def variant(self, name: str) -> Variant:
        """Return the variant of that name, which a learning-rate sweep may have made."""
        if name in self.variants:
            return self.variants[name]
        base, rate = name.rsplit("-lr", 1)
        return self.variants[base].model_copy(update={"lr": float(rate)})

    def source(self, name: str) -> Variant:
        """Return the variant whose switches a variant has: its parent if it is annealed, else itself."""
        variant = self.variant(name)
        return self.variants[variant.parent] if variant.parent else variant


def load(path: Path = PARAMS) -> Params:
    """Read and validate ``params.yaml``.

    Raises:
        UserError: the file is missing, is not YAML, or holds an unknown key, a bad value or the name of a class that is
            missing; names the place.
    """
    params = read_model(path, Params)
    named = {f"studies.{name}.data.name": study.data.entry for name, study in params.studies.items()}
    for name, variant in params.variants.items():
        named[f"variants.{name}.weight"] = find("quantizer", variant.weight)
        if variant.remedy is not None:
            named[f"variants.{name}.remedy.name"] = variant.remedy.entry
    for place, entry in named.items():
        if wrong := problem(entry):
            raise UserError(f"{path}: {place}: {wrong}")
    return params


def json_schema() -> str:
    """Return the JSON schema of ``params.yaml`` for editors, generated from the types above."""
    return json.dumps(Params.model_json_schema(), indent=2) + "\n"
