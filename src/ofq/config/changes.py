"""In which settings two runs differ, in words: ``qat.lr 0.016 -> 0.02``."""

import json
from typing import Any

from ofq.errors import shortened

_LONGEST = 24  # characters of a value


def changes(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Return the settings that differ, each with what it was and what it is; how a phase trains under its name.

    Args:
        there: settings as ``run.json`` or Snakemake's notes have them.
        here: those that are asked for.
    """
    phase = here.get("phase", "train")
    found = _changes("", there, here)
    return [f"{phase}.{each.removeprefix('train.')}" if each.startswith("train.") else each for each in found]


def _changes(place: str, there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    found = []
    for name in sorted({*there, *here}):
        one, other = there.get(name), here.get(name)
        # As they stand in canonical JSON: 1 is not 1.0.
        if json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True):
            continue
        if isinstance(one, dict | None) and isinstance(other, dict | None):
            found += _changes(f"{place}{name}.", one or {}, other or {}) or [f"{place}{name}"]
        elif isinstance(one, list) and isinstance(other, list):
            more, less = (sum(each not in those for each in these) for these, those in ((other, one), (one, other)))
            counts = [f"{count} {word}" for count, word in ((more, "more"), (less, "fewer")) if count]
            found.append(f"{place}{name} ({', '.join(counts) or 'another order'})")
        else:
            found.append(f"{place}{name} {_value(one)} -> {_value(other)}")
    return found


def _value(value: Any) -> str:
    text = "unset" if value is None else value if isinstance(value, str) else json.dumps(value)
    return shortened(text, _LONGEST)
