"""Pair the runs that a claim compares, seed by seed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ofq.report.claims.quantities import Lacking, OutsideError, Records, Side, quantity
from ofq.report.claims.terms import Claim
from ofq.runs.paths import TEACHER, Run


@dataclass(frozen=True)
class Pairs:
    """The differences between the runs that a claim compares.

    Attributes:
        differences: by complete seed, the mean of ``of`` minus ``against`` over models and bit widths.
        parts: by model and bit width, the numbers that the mean is taken over, one for each complete seed.
        runs: the runs behind them, each once.
        bits: widths that the mean is taken over, or that are compared.
        lacking: what the claim names and its runs do not have, in one line.
        outside: runs whose step lies outside the widths of a curve; their seeds are not complete.
    """

    differences: dict[int, float]
    parts: dict[tuple[str, str], list[float]]
    runs: list[Run]
    bits: list[str]
    lacking: str = ""
    outside: list[Run] = field(default_factory=list)


class _Place(NamedTuple):
    """A model and the bit widths at which the two sides of a claim are compared."""

    study: str
    model: str
    left: str  # bit width of this side
    right: str

    def runs(self, claim: Claim, seed: int) -> list[Run]:
        """Return the quantized runs that the claim needs here."""
        right = claim.right.variants if isinstance(claim.right, Side) else []
        named = [(self.left, name) for name in claim.left.variants] + [(self.right, name) for name in right]
        return [Run(self.study, self.model, bits, name, seed) for bits, name in dict.fromkeys(named)]


def pair(claim: Claim, planned: Sequence[Run], models: Sequence[str], records: Records) -> Pairs:
    """Return the differences of a claim, one for each seed that has every run that the claim needs.

    A claim is tested at the bit widths that it names, or else at those at which the study plans all of its runs. It is
    tested on the models of the study's main grid, or, if none of them has all of its variants, on those of its groups.
    Within a seed the mean over models and widths is taken, so that a seed counts once. A claim about layers that one of
    its runs does not have is not tested.

    Args:
        claim: the claim to test.
        planned: quantized runs of a study and its groups; no other run counts.
        models: models of the study's main grid.
        records: records of the runs.

    Raises:
        UserError: a file of a run is damaged.
    """
    available = set(planned)
    seeds = sorted({run.seed for run in planned})
    places = _places(claim, available, seeds, models)
    differences: dict[int, float] = {}
    parts: dict[tuple[str, str], list[float]] = {(place.model, place.left): [] for place in places}
    runs: dict[Run, None] = {}
    outside: list[Run] = []
    for seed in seeds:
        if places and all(available.issuperset(place.runs(claim, seed)) for place in places):
            values: list[float | None] = []
            for place in places:
                try:
                    values.append(_difference(claim, place, seed, records))
                except OutsideError:
                    values.append(None)
                    outside.append(Run(place.study, place.model, place.left, claim.left.variant, seed))
                except Lacking as error:
                    return Pairs({}, {}, [], [], str(error))
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                differences[seed] = sum(known) / len(known)
                for place, value in zip(places, known, strict=True):
                    parts[place.model, place.left].append(value)
                runs |= dict.fromkeys(run for place in places for run in _behind(claim, place, seed))
    widths = dict.fromkeys(bits for place in places for bits in (place.left, place.right))
    lacking = "no run's step lies within the widths of the curve" if outside and not differences else ""
    return Pairs(differences, parts, list(runs), list(widths), lacking, outside)


def _places(claim: Claim, found: set[Run], seeds: Sequence[int], models: Sequence[str]) -> list[_Place]:
    """Return the models and bit widths at which the study plans every run of the claim for at least one seed."""
    study = next(iter(found)).study if found else ""
    if claim.left.bits is not None:
        other = claim.right.bits if isinstance(claim.right, Side) else None
        widths = [(claim.left.bits, other or claim.left.bits)]
    else:
        widths = [(bits, bits) for bits in claim.bits or sorted({run.bits for run in found})]
    others = sorted({run.model for run in found} - set(models))
    for group in (models, others):
        places = []
        for model in group:
            here = [_Place(study, model, *pair) for pair in widths]
            here = [p for p in here if any(found.issuperset(p.runs(claim, seed)) for seed in seeds)]
            # A statement about named widths is tested on all of them or not at all.
            if len(here) == len(widths) or (claim.bits is None and claim.left.bits is None):
                places += here
        if places:
            return places
    return []


def _behind(claim: Claim, place: _Place, seed: int) -> list[Run]:
    """Return all runs behind a difference, teachers included."""
    runs = place.runs(claim, seed)
    return [*runs, *dict.fromkeys(run.teacher for run in runs)] if claim.against.teacher else runs


def _difference(claim: Claim, place: _Place, seed: int, records: Records) -> float | None:
    """Return ``of`` minus ``against`` at one place, or None if one of them is not known."""
    left = _value(claim.left, place, place.left, seed, records)
    right = _value(claim.right, place, place.right, seed, records)
    if left is None or right is None:
        return None
    if not claim.relative:
        return left - right
    return 100.0 * (left - right) / abs(right) if right else None


def _value(side: Side | float, place: _Place, bits: str, seed: int, records: Records) -> float | None:
    if not isinstance(side, Side):
        return float(side)
    run = Run(place.study, place.model, bits, side.variant, seed)
    if side.variant == TEACHER:
        run = run.teacher
    value = quantity(records, run, side)
    if side.over is None or value is None:
        return value
    base = quantity(records, run.sibling(side.over), side)
    return None if base is None else value - base
