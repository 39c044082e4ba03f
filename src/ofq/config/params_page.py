"""The page docs/params.md: one row for each key of ``params.yaml``, generated from the typed schema."""

from collections.abc import Iterator
from typing import Any

from ofq.config.params import Params

_SINGULAR = {"studies": "study", "groups": "group", "recipes": "recipe", "models": "model", "variants": "variant"}
_HEAD = """# Keys of params.yaml

Everything that a run depends on stands in `params.yaml`. An edit reruns the runs that use what was edited, and nothing
else. An unknown key or a value out of range is an error of one line that names the place.

This page is written by `python -m ofq schema --markdown > docs/params.md`. Editors read the same from
`params.schema.json`, which `python -m ofq schema > params.schema.json` writes. What the names mean and where they stand
in paths: [names.md](names.md). Examples: [add-a-variant.md](add-a-variant.md), [add-a-data-set.md](add-a-data-set.md).
"""
_KINDS = {"object": "mapping", "string": "text", "boolean": "true or false"}
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def markdown() -> str:
    """Return the whole page, sections in the order of ``params.yaml``."""
    schema = Params.model_json_schema()
    places: dict[str, list[str]] = {}  # places by type: a type used in two places gets one section
    for place, kind in _places(schema, schema, ""):
        places.setdefault(kind, []).append(place)
    parts = [_HEAD, "## Top level\n", _table(schema)]
    for kind, used_at in places.items():
        section = schema["$defs"][kind]
        parts += [f"## {', '.join(f'`{place}`' for place in used_at)}\n", f"{_tidy(section['description'])}\n"]
        parts.append(_table(section))
    return "\n".join(parts)


def _places(schema: dict[str, Any], section: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Yield place and type of every mapping in the file, parents before children."""
    for key, value in section["properties"].items():
        for option in _options(value):
            named: dict[str, Any] = next(iter(option.get("patternProperties", {}).values()), {})
            place = f"{path}{key}.<{_SINGULAR[key]}>" if named else f"{path}{key}"
            if reference := (named or option).get("$ref"):
                kind = reference.removeprefix("#/$defs/")
                yield place, kind
                yield from _places(schema, schema["$defs"][kind], f"{place}.")


def _table(section: dict[str, Any]) -> str:
    lines = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    required = section.get("required", [])
    for key, value in section["properties"].items():
        default = "required" if key in required else f"`{_default(value)}`"
        kind = " or ".join(dict.fromkeys(map(_kind, _options(value))))
        lines.append(f"| `{key}` | {kind} | {default} | {_tidy(value['description'])} |")
    return "\n".join(lines) + "\n"


def _default(value: dict[str, Any]) -> str:
    default = value.get("default", {})  # the schema gives none for a mapping that starts empty
    return "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def _options(value: dict[str, Any]) -> list[dict[str, Any]]:
    options: list[dict[str, Any]] = value.get("anyOf") or value.get("oneOf", [value])
    return [option for option in options if option.get("type") != "null"]


def _kind(value: dict[str, Any]) -> str:
    """Describe in words what values a key may have."""
    match value:
        case {"const": constant}:
            return f"`{constant}`".lower()
        case {"enum": choices}:
            return ", ".join(f"`{choice}`" for choice in choices)
        case {"$ref": _} | {"patternProperties": _}:
            return "mapping, see below"
        case {"type": "array", "items": items}:
            return f"list of: {_kind(items)}"
        case {"pattern": pattern}:
            return f"text matching `{pattern}`"
    bounds = [f"{sign} {value[name]}" for name, sign in _BOUNDS.items() if name in value]
    return " ".join([_KINDS.get(value["type"], value["type"]), ", ".join(bounds)]).strip()


def _tidy(text: str) -> str:
    """Return the text as one line of Markdown: docstrings mark code with two backticks."""
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")
