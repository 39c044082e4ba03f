"""Read a YAML file into a pydantic type; a mistake in it gives one line that names the place."""

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ofq.errors import UserError, shortened

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
        raise UserError(f"{path}: {_first_line(error)}") from None


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


def _first_line(error: ValidationError) -> str:
    """Return the first validation error as ``place: what is wrong``."""
    # A key that is no text also leaves a required one missing: the wrong key is the better message.
    first = min(error.errors(), key=lambda e: e["type"] != "invalid_key")
    # In brackets stands what is no key: "[key]", and which kind of section is meant.
    place = [shortened(str(part)) for part in first["loc"] if part not in ("[key]", "[trained]", "[pretrained]")]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
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
