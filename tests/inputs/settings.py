"""A params.yaml in which every section stands, and the wrong values that its types lead to."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ofq.config.params import Params

BASE: dict[str, Any] = {
    "study": "plain",
    "studies": {
        "plain": {
            "data": {"name": "digits"},
            "models": ["vit"],
            "bits": ["w2a2"],
            "variants": ["statsq", "statsq-cga"],
            "seeds": [0, 1],
            "recipe": "short",
            "recipe_for": {"vit/w2a2": "short", "vit/fp": "short"},
            "learning_rates": "rates",
            "hardware": {"device": "cuda", "precision": "tf32", "compile": True, "runs_per_gpu": 2},
            "groups": {
                "further": {
                    "models": ["vit"],
                    "bits": ["w2a2"],
                    "variants": ["statsq", "statsq-damped"],
                    "seeds": [2],
                    "compare": [["statsq-damped", "statsq"]],
                    "measure": ["noise", "probe"],
                }
            },
        },
        "rates": {
            "data": {"name": "digits", "evaluate": "validation"},
            "models": ["vit"],
            "bits": ["w2a2"],
            "variants": ["teacher", "statsq"],
            "seeds": [0],
            "recipe": "short",
            "sweep_lr": {"teacher": [1e-3, 1e-2], "qat": [1e-3, 1e-2]},
        },
    },
    "recipes": {
        "short": {
            "teacher": {"lr": 3e-3, "min_lr": 1e-4, "batch_size": 16, "steps": 4, "augment": {"crop": 1}},
            "qat": {"lr": 3e-3, "min_lr": 1e-4, "batch_size": 16, "steps": 4, "augment": {"crop": 1}},
            "cga": {"steps": 2},
            "teacher_once": False,
        },
        "long": {
            "teacher": {"pretrained": True},
            "qat": {
                "lr": 3e-3,
                "min_lr": 1e-4,
                "batch_size": 16,
                "epochs": 4,
                "warmup_epochs": 1,
                "constant_epochs": 1,
            },
            "cga": {"epochs": 1},
        },
    },
    "models": {
        "vit": {
            "timm": "vit_tiny_patch16_224",
            "arguments": {"patch_size": 2, "embed_dim": 32, "depth": 1, "num_heads": 2},
            "set": {"norm.eps": 1e-5},
        }
    },
    "variants": {
        "statsq": {"weight": "statsq"},
        "statsq-cga": {"parent": "statsq", "cga": {"boundary_range": 0.1}},
        "lsq-described": {"weight": "lsq", "learn_step": False, "fidelity": {"attention_init": "random"}},
        "statsq-damped": {"weight": "statsq", "remedy": {"name": "dampening", "arguments": {"weight": 0.1}}},
    },
}

NAN, INF, HUGE = float("nan"), float("inf"), 10**30
# A value of each kind that YAML knows.
OF_EACH_KIND: dict[str, list[Any]] = {
    "null": [None],
    "boolean": [True, False],
    "integer": [3],
    "number": [2.5, 3.0],
    "string": ["text", "3", "true"],
    "array": [[], [1], [[]]],
    "object": [{}, {"a": 1}],
}
ODD_NAMES = [
    "", " ", "a b", "a/b", "../a", "..", ".", "-a", "--help", ".a", "_a", "A", "ä", "a\u200b", "a\n", "a\nb", "a\0", "a*", "a{b}", "~", "a" * 101, "a" * 300,
]  # fmt: skip


class _Absent:
    def __repr__(self) -> str:
        return "<absent>"


ABSENT = _Absent()
Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Case:
    """A wrong value, and where it stands."""

    origin: tuple[str, str]
    """Type and field that it tries."""
    place: Place
    value: Any
    named: Place
    """What the message names."""

    def __str__(self) -> str:
        return f"{_short(dotted(self.place))}={_short(repr(self.value))}"


def _short(text: str) -> str:
    return text if len(text) < 60 else f"{text[:50]}...{len(text)}"


def dotted(place: Place) -> str:
    return ".".join(map(str, place))


def changed(changes: dict[Place, Any]) -> dict[str, Any]:
    """BASE with other values at some places; :data:`ABSENT` removes what stands there."""
    settings = copy.deepcopy(BASE)
    for place, value in changes.items():
        parent: Any = settings
        for part in place[:-1]:
            parent = parent[part]
        if value is ABSENT:
            del parent[place[-1]]
        else:
            parent[place[-1]] = value
    return settings


def cases() -> list[Case]:
    """Wrong values for every field of every type that ``params.yaml`` holds, from the types' JSON schema."""
    schema = Params.model_json_schema()
    return list(_of_mapping(schema, schema, "Params", ()))


def _of_mapping(schema: dict[str, Any], section: dict[str, Any], title: str, place: Place) -> Iterator[Case]:
    content = at(place)
    for key, field in section["properties"].items():
        origin, here = (title, key), (*place, key)
        if key in section.get("required", []):
            # Without its only key a mapping is of no kind: another key of another kind may be named.
            yield Case(origin, here, ABSENT, here if len(content) > 1 else place)
        options = field.get("anyOf") or field.get("oneOf", [field])
        options = [schema["$defs"][option["$ref"].split("/")[-1]] if "$ref" in option else option for option in options]
        kinds = {kind for option in options for kind in _kinds(option)}
        for kind, values in OF_EACH_KIND.items():
            for value in values:
                if kind not in kinds and not (kind == "integer" and "number" in kinds):
                    yield Case(origin, here, value, here)
        for option in options:
            yield from (Case(origin, here, value, here) for value in _wrong_in(option))
            if "properties" in option:
                where = here if fits(content.get(key), option) else example(place, key, option)
                yield from _of_mapping(schema, option, option["title"], where)
                yield Case(origin, (*where, "no_such_key"), 1, where)
                yield Case(origin, (*where, 7), 1, where)
            elif "patternProperties" in option:
                (named,) = option["patternProperties"].values()
                kind = schema["$defs"][named["$ref"].split("/")[-1]]
                entry = next(iter(content[key]))
                for value in (None, True, 3, "text", []):
                    yield Case(origin, (*here, entry), value, (*here, entry))
                for name in [*ODD_NAMES, 7, True]:
                    yield Case(origin, (*here, name), content[key][entry], here)
                yield from _of_mapping(schema, kind, kind["title"], (*here, entry))
            elif option.get("type") == "array":
                for value in _wrong_items(option["items"]):
                    yield Case(origin, here, [value], here)
                if good := content.get(key):
                    yield Case(origin, here, [*good, good[0]], here)
            elif "additionalProperties" in option:
                listed = any(each.get("type") == "array" for each in option["additionalProperties"].get("anyOf", []))
                for value in (None, [], *([[1.5], ["a"], [[1]], [True]] if listed else [[1]]), {}, {"a": 1}, NAN, INF):
                    yield Case(origin, (*here, "depth"), value, (*here, "depth"))


def _kinds(option: dict[str, Any]) -> set[str]:
    return {option["type"]} if "type" in option else set()


def _wrong_in(option: dict[str, Any]) -> Iterator[Any]:
    """Values of the right kind that are out of range."""
    match option.get("type"):
        case "integer" | "number" as kind:
            step = 1 if kind == "integer" else 1e-9
            # Without a bound a number can be as large as no machine can bear: then HUGE is not refused, and a test fails.
            yield from [HUGE, -1, -HUGE]
            if "minimum" in option:
                yield option["minimum"] - step
            if "exclusiveMinimum" in option:
                yield option["exclusiveMinimum"]
            if "maximum" in option:
                yield option["maximum"] + step
            if "exclusiveMaximum" in option:
                yield option["exclusiveMaximum"]
            if kind == "number":
                yield from [NAN, INF, -INF]
        case "string" if "enum" in option:
            yield from ["", "no such", option["enum"][0].upper(), f"{option['enum'][0]} "]
        case "string" if "pattern" in option:
            yield from ODD_NAMES
        case "string":
            yield from ["", "a\nb", "a\0b", "\x1b[31m"]
        case "array" if option.get("minItems"):
            yield []


def _wrong_items(items: dict[str, Any]) -> Iterator[Any]:
    for kind, values in OF_EACH_KIND.items():
        if kind not in _kinds(items) and not (kind == "integer" and items.get("type") == "number"):
            yield from values
    yield from _wrong_in(items)


def at(place: Place) -> dict[str, Any]:
    """The mapping of BASE at a place."""
    content: Any = BASE
    for part in place:
        content = content[part]
    assert isinstance(content, dict), place
    return content


def fits(content: Any, option: dict[str, Any]) -> bool:
    """Whether something is a mapping with keys of an option's."""
    return isinstance(content, dict) and content.keys() <= option["properties"].keys()


def example(place: Place, key: str, option: dict[str, Any]) -> Place:
    """Where BASE has the mapping ``key`` in the form of an option, in another entry of the section than the first."""
    for entry, content in at(place[:-1]).items():
        if fits(content.get(key), option):
            return (*place[:-1], entry, key)
    raise AssertionError(f"BASE has no example of {dotted(place)}.{key}: add one")
