"""Every field of params.yaml, with every kind of wrong value: one line that names the place and what is allowed."""

import re
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from ofq.config import params
from ofq.config.grid import Grid
from ofq.errors import UserError
from ofq.workflow.targets import load_project
from tests.inputs.settings import BASE, Case, cases, changed, dotted

CASES = cases()

ALLOWED = re.compile(r"should|required|unknown key|known:|name each once")


def refusal(path: Path, settings: Any) -> str:
    """What is said of a params.yaml, without the file's name."""
    path.write_text(yaml.dump(settings, Dumper=yaml.CSafeDumper, allow_unicode=True))
    with pytest.raises(UserError) as error:
        load_project(path)
    return str(error.value).removeprefix(f"{path}: ")


def test_the_settings_that_are_made_wrong_are_right(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(BASE))
    assert Grid(load_project(tmp_path / "params.yaml"), "plain").runs


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fields") / "params.yaml"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_wrong_value_is_one_line_that_names_the_place_and_what_is_allowed(path: Path, case: Case) -> None:
    said = refusal(path, changed({case.place: case.value}))
    assert said.startswith(dotted(case.named)[:50]) and ALLOWED.search(said), said
    assert said.isprintable() and len(said) < 400


def test_every_field_of_every_type_is_tried() -> None:
    tried = Counter(case.origin for case in CASES)
    assert set(tried) == set(fields_of(params.Params))
    assert min(tried.values()) >= 5, tried.most_common()[-1]
    assert len(CASES) >= 200


def fields_of(model: type[BaseModel]) -> set[tuple[str, str]]:
    """Type and name of each field of a type and of the types in it."""
    found = {(model.__name__, name) for name in model.model_fields}
    for field in model.model_fields.values():
        for kind in models_in(field.annotation):
            found |= fields_of(kind)
    return found


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in models_in(part)]
