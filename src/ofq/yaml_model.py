"""Read a YAML file into a pydantic type; whatever is wrong with it is one line that names the place."""

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ofq.errors import UserError, unknown

Model = TypeVar("Model", bound=BaseModel)


def read_model(path: Path, model: type[Model]) -> Model:
    """Read and validate a YAML file.

    Raises:
        UserError: the file is missing, is no YAML, or holds an unknown key or a bad value; names the place.
    """
    try:
        content = yaml.load(path.read_text(), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"{path} not found in {Path.cwd()}; run from the project's root") from None
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {_first_line(error, model)}") from None


class _Loader(yaml.SafeLoader):
    """YAML 1.2 floats: ``5e-4`` is a number (YAML 1.1 reads it as text); a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _first_line(error: ValidationError, model: type[BaseModel]) -> str:
    """The first validation error as ``place: what is wrong``, with the nearest key for an unknown one."""
    # A mistyped key also leaves a required one missing: the typo is the better message.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    place = [str(part) for part in first["loc"] if part != "[key]"]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, place[:-1])
        where = ".".join(place[:-1])
        return f"{where + ': ' if where else ''}{unknown('key', place[-1], known)}{more}"
    message = first["msg"].removeprefix("Value error, ")
    given = f", not {first['input']!r}" if isinstance(first["input"], str | int | float | bool) else ""
    return f"{'.'.join(place) + ': ' if place else ''}{message}{given}{more}"


def _fields_at(model: type[BaseModel], place: list[str]) -> list[str]:
    """Field names of the type that stands at a place of the file."""
    current: Any = model
    for part in place:
        if isinstance(current, type) and issubclass(current, BaseModel) and part in current.model_fields:
            current = current.model_fields[part].annotation
        current = next((t for t in _types_in(current) if issubclass(t, BaseModel)), current)
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _types_in(annotation: Any) -> list[type]:
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _types_in(part)]
