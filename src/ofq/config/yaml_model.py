"""Read a YAML file into a pydantic type; a mistake in it gives one line that names the place."""

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ofq.errors import UserError, shortened, unknown

Section = TypeVar("Section", bound=BaseModel)

_LONGEST = 256 * 1024  # bytes; PyYAML takes seconds for more


def read_model(path: Path, model: type[Section]) -> Section:
    """Read and validate a YAML file.

    Raises:
        UserError: the file is missing, is not YAML, or holds an unknown key or a bad value; names the place.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} not found in {Path.cwd()}; run from the project's root") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; it should be a file of yours") from None
    if len(text) > _LONGEST:
        raise UserError(f"{path}: {len(text)} bytes are too many; settings should take at most {_LONGEST}")
    try:
        content = yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise UserError(f"{path}: cannot be read: nested too deeply") from None
    # Besides its own errors, PyYAML lets those of Python's conversions through: `!!bool maybe` is a KeyError.
    except (yaml.YAMLError, ValueError, KeyError, AttributeError) as error:
        what = str(error).replace('in "<byte string>", ', "in ")
        raise UserError(f"{path}: cannot be read: {what}") from None
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {_first_line(error, model)}") from None


class _Loader(yaml.SafeLoader):
    """Plain values as in YAML 1.2, which DVC and editors read, and a key given twice is an error.

    PyYAML follows YAML 1.1: ``010`` is 8, ``1_000`` is 1000, ``12:30`` is 750, ``no`` is false, ``2026-01-01`` is a
    date, and ``5e-4`` is text. Here the last is a number. The others are text, which fields of other types refuse.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        content = super().construct_mapping(node, deep)
        given: set[Any] = set()
        for key in keys:
            name = self.construct_object(key, deep=True)
            if name in given:
                raise yaml.constructor.ConstructorError(None, None, f"key '{name}' given twice", key.start_mark)
            given.add(name)
        return content


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _first_line(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first validation error as ``place: what is wrong``, with the nearest key for an unknown one."""
    # A mistyped key also leaves a required one missing: the typo is the better message.
    first = min(error.errors(), key=lambda e: e["type"] not in ("extra_forbidden", "invalid_key"))
    place = [shortened(str(part)) for part in first["loc"] if part != "[key]"]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, place[:-1])
        where = ".".join(place[:-1])
        return f"{where + ': ' if where else ''}{unknown('key', place[-1], known)}{more}"
    mappings = {"model_type", "dict_type"}
    message = "Input should be a mapping" if first["type"] in mappings else first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(place) + ': ' if place else ''}{message}{_given(first)}{more}"


def _given(error: ErrorDetails) -> str:
    """Return what the file holds in place of the right value; nothing if the message says it already."""
    match error["input"]:
        case str() | int() | float() as value if error["type"] != "value_error":
            return f", not {shortened(repr(value))}"
        case None:
            return ", not null"
        case list() if error["type"].endswith("_type"):
            return ", not a list"
        case dict() if error["type"].endswith("_type"):
            return ", not a mapping"
    return ""


def _fields_at(model: type[BaseModel], place: list[str]) -> list[str]:
    """Return the field names of the type at a place of the file."""
    current: Any = model
    for part in place:
        if isinstance(current, type) and issubclass(current, BaseModel) and part in current.model_fields:
            current = current.model_fields[part].annotation
        current = next((t for t in _types_in(current) if issubclass(t, BaseModel)), current)
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _types_in(annotation: Any) -> list[type]:
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return [annotation]
    return [kind for part in getattr(annotation, "__args__", ()) for kind in _types_in(part)]
