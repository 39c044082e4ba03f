"""``probe.json`` of a run, in the form that it should have."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator
from typing_extensions import TypedDict

from ofq.runs.published import read_measured


class Bins(TypedDict):
    """What weights did, by their distance to the nearest threshold."""

    left: list[float]
    weight_steps: list[float]
    gradient_turns: list[float]
    reversals: list[float]


class Band(TypedDict):
    """Weights near a threshold."""

    start: float
    both: float


class Head(TypedDict):
    """Reversals of the query and key codes of a head."""

    same: float | None
    other: float | None
    chance: float


def _equally_long(bins: dict[str, list[float]]) -> dict[str, list[float]]:
    if len({len(values) for values in bins.values()}) != 1 or not all(bins.values()):
        raise ValueError("the bins should be one or more, and as many everywhere")
    return bins


Boundary = Annotated[Bins, AfterValidator(_equally_long)]


class Probe(TypedDict, total=False):
    """What claims read; a probe of an earlier version may lack a part."""

    boundary: Boundary
    band: Band
    coupling: list[Head]


class _WholeBand(Band):
    range: float


class _WholeHead(Head):
    q: float
    k: float


class WholeProbe(TypedDict):
    """What tables and figures show."""

    boundary: Boundary
    band: _WholeBand
    coupling: list[_WholeHead]  # none of a model without attention
    coupling_codes: str


def read_probe(path: Path, form: Any = Probe) -> dict[str, Any]:
    """Read ``probe.json``.

    Raises:
        UserError: missing, damaged, of another form, or changed since it was written.
    """
    content: dict[str, Any] = read_measured(path, form)
    return content
