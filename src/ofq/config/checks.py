"""Checks across the sections of ``params.yaml``: every name that is used exists, and none is already taken."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ofq.config.studies import Group, Study, swept_names
from ofq.errors import unknown
from ofq.runs.paths import EVERYTHING, TEACHER

if TYPE_CHECKING:
    from ofq.config.params import Params

# Entries of a study's results folder besides its models.
_BESIDE_MODELS = {"data", "report", "mlflow.json"}
# Entries of its report folder besides its groups.
_BESIDE_GROUPS = {EVERYTHING, "tables", "figures", "claims.md", "claims.json"}
_NO_STUDIES = {"reference", EVERYTHING}


def check_references(params: "Params") -> None:
    """Check that every name that one section takes from another exists, and that no name is reserved.

    Raises:
        ValueError: a name is wrong; gives the first, with its place and the nearest right name.
    """
    _exists("study", "study", [params.study], params.studies)
    for section, names, reserved in (
        ("studies", params.studies, _NO_STUDIES),
        ("models", params.models, _BESIDE_MODELS),
        ("variants", params.variants, {TEACHER}),
    ):
        for name in sorted(reserved & set(names)):
            raise ValueError(f"{section}: '{name}' is a reserved name, choose another")
    for name, variant in params.variants.items():
        if variant.parent is not None:
            where = f"variants.{name}.parent"
            _exists(where, "variant", [variant.parent], params.variants)
            if params.variants[variant.parent].parent is not None:
                raise ValueError(f"{where}: '{variant.parent}' is itself annealed; name the run that it continues")
    for name, study in params.studies.items():
        _check_study(params, name, study)


def _check_study(params: "Params", name: str, study: Study) -> None:
    where = f"studies.{name}"
    _exists(f"{where}.recipe", "recipe", [study.recipe], params.recipes)
    _exists(f"{where}.models", "model", study.models, params.models)
    _exists(f"{where}.variants", "variant", [name for name in study.variants if name != TEACHER], params.variants)
    _check_measured(params, where, study)
    if study.learning_rates is not None:
        swept = [other for other, spec in params.studies.items() if spec.sweep_lr]
        _exists(f"{where}.learning_rates", "study with sweep_lr", [study.learning_rates], swept)
    for group_name, group in study.groups.items():
        place = f"{where}.groups.{group_name}"
        if group_name in _BESIDE_GROUPS | set(params.studies):
            raise ValueError(f"{place}: '{group_name}' is a reserved name, or a study's; choose another")
        _exists(f"{place}.models", "model", group.models or [], params.models)
        _exists(f"{place}.variants", "variant", group.variants, params.variants)
        _check_measured(params, place, group)
        target = f"{name}-{group_name}"
        if target in params.studies:
            raise ValueError(f"{where}.groups: '{group_name}' would be asked for as {target}, which is a study")
    if study.sweep_lr is not None:
        for listed in study.variants:
            if listed != TEACHER and params.variants[listed].parent is not None:
                raise ValueError(f"{where}.sweep_lr cannot try '{listed}', an annealed variant: leave it out")
        for taken in sorted(set(swept_names(study)) & set(params.variants)):
            raise ValueError(f"{where}.sweep_lr makes a variant '{taken}': give your own another name")


def _check_measured(params: "Params", where: str, grid: Study | Group) -> None:
    if grid.measure and all(params.variants[name].parent is not None for name in grid.variants if name != TEACHER):
        raise ValueError(f"{where}.measure: annealed variants are not measured, and there is no other: leave it out")


def _exists(where: str, kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in set(known):
            raise ValueError(f"{where}: {unknown(kind, name, known)}")
