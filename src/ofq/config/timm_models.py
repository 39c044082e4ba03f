"""The names of timm's models, read from its source: importing timm takes seconds, which planning should not."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_REGISTERED = re.compile(r"^@register_model\b.*\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)


@cache
def timm_models() -> frozenset[str]:
    """Return the names in timm's registry, those that it calls deprecated left out; none where timm is not installed.

    A deprecated name stands for another one with a tag of pretrained weights.
    """
    found = find_spec("timm")
    folders = found.submodule_search_locations if found else None
    files = [path for folder in folders or () for path in (Path(folder) / "models").glob("*.py")]
    return frozenset(name for path in files for name in _REGISTERED.findall(path.read_text(encoding="utf-8")))
