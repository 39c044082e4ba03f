"""The type of the whole ``params.yaml``, the checks across its sections, and the function that reads it.

Everything that reads the file calls :func:`load`, so a mistake in it gives one line with the nearest right name.
``params.schema.json``, which editors use, is generated from these types (``python -m ofq schema``).
"""

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, model_validator

from ofq.config.recipes import Pretrained, Recipe
from ofq.config.section import Strict
from ofq.config.settings import ModelSettings, Name, Variant
from ofq.config.studies import Group, Study, swept_names
from ofq.config.timm_models import timm_models
from ofq.config.yaml_model import read_model
from ofq.errors import UserError, unknown
from ofq.runs.paths import CRATE, EVERYTHING, EXPORTS, FULL_PRECISION, PARAMS, TEACHER
from ofq.runs.registry import problem

# Entries of a study's results folder besides its models.
_BESIDE_MODELS = {"data", "report", "mlflow.json"}
# Entries of its report folder besides its groups.
_BESIDE_GROUPS = {EVERYTHING, EXPORTS, CRATE, "tables", "figures", "claims.md", "claims.json"}
_BESIDE_GROUPS |= {"crate.zip", "croissant.json", "sbom.json"}
_NO_STUDIES = {"reference", EVERYTHING, EXPORTS, CRATE}


class Params(Strict):
    """The whole of ``params.yaml``."""

    study: Name = Field(description="the study that a bare `snakemake` builds")
    studies: dict[Name, Study] = Field(description="grids of runs, each with tables and figures of its own")
    recipes: dict[Name, Recipe] = Field(description="sets of hyper-parameters")
    models: dict[Name, ModelSettings] = Field(description="backbones")
    variants: dict[Name, Variant] = Field(description="what is compared: sets of switches")

    @model_validator(mode="after")
    def _references_exist(self) -> "Params":
        """Check that every name that one section takes from another exists, and that no name is reserved.

        Raises:
            ValueError: a name is wrong; gives the first, with its place and the nearest right name.
        """
        _exists("study", "study", [self.study], self.studies)
        for section, names, reserved in (
            ("studies", self.studies, _NO_STUDIES),
            ("models", self.models, _BESIDE_MODELS),
            ("variants", self.variants, {TEACHER}),
        ):
            for name in sorted(reserved & set(names)):
                raise ValueError(f"{section}: '{name}' is a reserved name, choose another")
        for name, variant in self.variants.items():
            if variant.parent is not None:
                where = f"variants.{name}.parent"
                _exists(where, "variant", [variant.parent], self.variants)
                if self.variants[variant.parent].parent is not None:
                    raise ValueError(f"{where}: '{variant.parent}' is itself annealed; name the run that it continues")
        for name, study in self.studies.items():
            _check_study(self, name, study)
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


def _check_study(params: Params, name: str, study: Study) -> None:
    where = f"studies.{name}"
    _exists(f"{where}.recipe", "recipe", [study.recipe], params.recipes)
    _exists(f"{where}.recipe_for", "recipe", study.recipe_for.values(), params.recipes)
    groups = study.groups.values()
    models = {*study.models, *(model for group in groups for model in group.models or ())}
    widths = {*study.bits, *(bits for group in groups for bits in group.bits or ()), FULL_PRECISION}
    places = {f"{model}/{bits}" for model in models for bits in widths}
    _exists(f"{where}.recipe_for", "model and bits of the study", study.recipe_for, places)
    devices = study.hardware.devices
    for named in {study.recipe, *study.recipe_for.values()}:
        for phase in (params.recipes[named].teacher, params.recipes[named].qat):
            if isinstance(phase, Pretrained):
                continue
            pairs = bool(phase.mixup or phase.cutmix)
            if phase.batch_size % (2 * devices if pairs else devices):
                raise ValueError(
                    f"{where}.hardware.devices: {devices} cannot share batches of {phase.batch_size} equally"
                    f"{', in pairs that are mixed' if pairs else ''}; they are those of recipe '{named}'"
                )
    _check_grid(params, where, study, [name for name in study.variants if name != TEACHER])
    if study.learning_rates is not None:
        swept = [other for other, spec in params.studies.items() if spec.sweep_lr]
        _exists(f"{where}.learning_rates", "study with sweep_lr", [study.learning_rates], swept)
    for group_name, group in study.groups.items():
        place = f"{where}.groups.{group_name}"
        if group_name in _BESIDE_GROUPS | set(params.studies):
            raise ValueError(f"{place}: '{group_name}' is a reserved name, or a study's; choose another")
        _check_grid(params, place, group, group.variants)
        target = f"{name}-{group_name}"
        if target in params.studies:
            raise ValueError(f"{where}.groups: '{group_name}' would be asked for as {target}, which is a study")
    if study.sweep_lr is not None:
        for listed in study.variants:
            if listed != TEACHER and params.variants[listed].parent is not None:
                raise ValueError(f"{where}.sweep_lr cannot try '{listed}', an annealed variant: leave it out")
        taught = {study.recipe_of(model, FULL_PRECISION) for model in study.models}
        for recipe in sorted(taught if study.sweep_lr.teacher else ()):
            if isinstance(params.recipes[recipe].teacher, Pretrained):
                raise ValueError(f"{where}.sweep_lr.teacher: recipe '{recipe}' trains no teacher: leave it out")
        for taken in sorted(set(swept_names(study)) & set(params.variants)):
            raise ValueError(f"{where}.sweep_lr makes a variant '{taken}': give your own another name")


def _check_grid(params: Params, where: str, grid: Study | Group, variants: list[str]) -> None:
    _exists(f"{where}.models", "model", grid.models or [], params.models)
    _exists(f"{where}.variants", "variant", variants, params.variants)
    for name in grid.curve:
        if params.variants[name].parent is not None:
            raise ValueError(f"{where}.curve: '{name}' is annealed: leave it out")
        if params.variants[name].step_learns:
            raise ValueError(f"{where}.curve: the steps of '{name}' learn: leave it out")
    if grid.measure and all(params.variants[name].parent is not None for name in variants):
        raise ValueError(f"{where}.measure: annealed variants are not measured, and there is no other: leave it out")


def _exists(where: str, kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in set(known):
            raise ValueError(f"{where}: {unknown(kind, name, known)}")


def load(path: Path = PARAMS) -> Params:
    """Read and validate ``params.yaml``.

    Raises:
        UserError: the file is missing, is not YAML, or holds an unknown key, a bad value or the name of a class or of a
            timm model that is missing; names the place.
    """
    params = read_model(path, Params)
    named = {f"studies.{name}.data.name": study.data.entry for name, study in params.studies.items()}
    for name, variant in params.variants.items():
        named[f"variants.{name}.weight"] = variant.entry
        if variant.remedy is not None:
            named[f"variants.{name}.remedy.name"] = variant.remedy.entry
    for place, entry in named.items():
        if wrong := problem(entry):
            raise UserError(f"{path}: {place}: {wrong}")
    known = timm_models()
    for name, model in params.models.items():
        if known and model.timm not in known:
            raise UserError(f"{path}: models.{name}.timm: {unknown('timm model', model.timm, known)}")
    return params


def json_schema() -> str:
    """Return the JSON schema of ``params.yaml`` for editors, generated from the types above."""
    return json.dumps(Params.model_json_schema(), indent=2) + "\n"
