"""The vocabulary of ``claims.yaml``: a claim is a sentence of a paper and the comparison that tests it, as data."""

from collections.abc import Collection, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ofq.config.grid import Grid
from ofq.config.params import Params
from ofq.config.section import Strict
from ofq.config.settings import Bits, Name, Text
from ofq.config.yaml_model import read_model
from ofq.errors import UserError, unknown
from ofq.oscillation.thresholds import HALF_STEP
from ofq.report.claims.quantities import MEASURES, OF_TEACHERS, WHERE, Side
from ofq.runs.paths import TEACHER

CLAIMS = Path("claims.yaml")

Expectation = Literal["below", "above", "equal"]
Distance = Annotated[float, Field(ge=0, le=HALF_STEP)]


def _one_of(kind: str, known: Collection[str]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in known:
            raise ValueError(str(unknown(kind, name, known)))
        return name

    return AfterValidator(check)


MeasureName = Annotated[str, _one_of("measure", MEASURES)]


class Terms(Strict):
    """The terms that a side of a comparison may name."""

    variant: Name | None = Field(None, description="variant of the runs")
    over: Name | None = Field(None, description="the quantity is the gain over this variant, seed by seed")
    bits: Bits | None = Field(None, description="bit width of this side alone, to compare two widths")
    layers: list[Text] | None = Field(None, min_length=1, description="groups of layers, as the runs name them")
    within: list[Distance] | None = Field(
        None, min_length=2, max_length=2, description="least and largest distance to a threshold, in code steps"
    )
    where: Annotated[str, _one_of("where", WHERE)] | None = Field(None, description="which weights the noise moved")


class Of(Terms):
    """The side that a claim is about."""

    variant: Name = Field(description="variant of the runs")


class Against(Terms):
    """The other side: other runs, a number, or the teachers. What it leaves out is as in `of`."""

    measure: MeasureName | None = Field(None, description="another measure than the claim's, of the same unit")
    value: float | None = Field(None, description="a number")
    teacher: Literal[True] | None = Field(None, description="the teacher of each run")
    curve: list[Name] | None = Field(
        None,
        min_length=2,
        description="variants of several step widths: the curve through them, at the own width of each run of `of`",
    )

    @model_validator(mode="after")
    def _one_thing(self) -> "Against":
        alone = self.model_fields_set & {"value", "teacher", "curve"}
        if not self.model_fields_set:
            raise ValueError("names nothing: give a variant, bits, layers, a value, a curve, or `teacher: true`")
        if alone and len(self.model_fields_set) > 1:
            raise ValueError(f"{min(alone)} stands alone: leave out {', '.join(sorted(self.model_fields_set - alone))}")
        return self


class Claim(Strict):
    """A statement and its test: the mean over seeds of `of` less `against`."""

    topic: Name = Field(description="name under `topics`")
    statement: Text = Field(description="one plain sentence")
    source: Text = Field(description="where it is claimed, and how we know")
    measure: MeasureName = Field(description="what is compared")
    of: Of
    against: Against
    expect: Expectation = Field(description="where `of` should lie beside `against`")
    margin: Annotated[float, Field(gt=0)] | None = Field(
        None, description="with `equal`: the largest difference that still counts as none, in the unit of the effect"
    )
    relative: bool = Field(False, description="the effect in percent of `against`")
    bits: list[Bits] | None = Field(
        None, min_length=1, description="bit widths, of which the mean is taken; left out: all that have the runs"
    )
    headline: bool = Field(False, description="stands in the figure of the verdicts that matter most")

    @property
    def left(self) -> Side:
        """The side that the claim is about."""
        return _side(self.of, self.of, self.measure)

    @property
    def right(self) -> Side | float:
        """The other side: runs, or a number."""
        if self.against.value is not None:
            return self.against.value
        if self.against.teacher:
            return Side(self.measure, TEACHER)
        return _side(self.against, self.of, self.against.measure or self.measure)

    @property
    def unit(self) -> str:
        """Unit of the effect."""
        return "%" if self.relative else MEASURES[self.measure].unit

    @model_validator(mode="after")
    def _consistent(self) -> "Claim":
        left, right = self.left, self.right
        if (self.expect == "equal") != (self.margin is not None):
            raise ValueError("margin and `expect: equal` need each other: give both or neither")
        if left == right:
            raise ValueError("of and against are the same: nothing is compared")
        if self.relative and right == 0:
            raise ValueError("relative to a value of 0 is no number")
        _check_options("of", left)
        if not isinstance(right, Side):
            return self
        if self.against.teacher:
            if left.measure not in OF_TEACHERS:
                raise ValueError(f"a teacher has no {left.measure}; it has {', '.join(sorted(OF_TEACHERS))}")
            return self
        if right.curve:
            _check_curve(left, right.curve)
        _check_options("against", right)
        if MEASURES[left.measure].unit != MEASURES[right.measure].unit:
            raise ValueError(f"{left.measure} and {right.measure} have different units")
        if left.bits != right.bits and None in (left.bits, right.bits):
            raise ValueError("against.bits needs of.bits beside it")
        if self.bits is not None and left.bits is not None:
            raise ValueError("bits stand on both sides or for the whole claim, not both")
        return self


class ClaimsFile(Strict):
    """The whole of ``claims.yaml``."""

    scopes: dict[Name, list[Name]] = Field(
        default_factory=dict, description="how much a verdict says: a word, and the studies that it fits"
    )
    topics: dict[Name, Text] = Field(description="headings of the page, in its order")
    batch_norms: list[Name] = Field(
        default_factory=list,
        description="topics of the studies that re-estimate statistics of batch norms; all other topics are for others",
    )
    claims: dict[Name, Claim] = Field(description="claims by their id")

    def about(self, grid: Grid) -> dict[str, Claim]:
        """Return the claims by their id that speak of the networks of a study, whose main grid is given."""
        return {
            name: claim for name, claim in self.claims.items() if (claim.topic in self.batch_norms) == grid.reestimates
        }

    def scope(self, study: str) -> str | None:
        """Return the word for how much a verdict on a study says, or None if the file has none for it."""
        return next((scope for scope, studies in self.scopes.items() if study in studies), None)

    @model_validator(mode="after")
    def _topics_exist(self) -> "ClaimsFile":
        for name, claim in self.claims.items():
            if claim.topic not in self.topics:
                raise ValueError(f"claims.{name}.topic: {unknown('topic', claim.topic, self.topics)}")
        for topic in self.batch_norms:
            if topic not in self.topics:
                raise ValueError(f"batch_norms: {unknown('topic', topic, self.topics)}")
        return self


def load(params: Params, path: Path = CLAIMS) -> ClaimsFile:
    """Read and validate ``claims.yaml``.

    Raises:
        UserError: the file is missing, is not YAML, or names a key, measure, topic or variant that does not exist.
    """
    file = read_model(path, ClaimsFile)
    for name, claim in file.claims.items():
        places = ("of.variant", "of.over", "against.variant", "against.over")
        named = [(place, attrgetter(place)(claim)) for place in places]
        for place, variant in [*named, *(("against.curve", each) for each in claim.against.curve or ())]:
            if variant is not None and variant not in params.variants:
                raise UserError(f"{path}: claims.{name}.{place}: {unknown('variant', variant, params.variants)}")
    return file


def _side(terms: Terms, of: Of, measure: str) -> Side:
    """Return a side; what it leaves out is taken from ``of``."""
    common = {name: getattr(terms, name) or getattr(of, name) for name in Terms.model_fields}
    return Side(measure, **common, curve=getattr(terms, "curve", None))


def _check_curve(left: Side, curve: Sequence[str]) -> None:
    if MEASURES[left.measure].width is None:
        known = ", ".join(name for name, measure in MEASURES.items() if measure.width)
        raise ValueError(f"there is no curve of {left.measure} against step width; there is one of {known}")
    if left.over:
        raise ValueError("a gain has no step width: leave out over, or curve")
    if left.variant in curve or len(set(curve)) < len(curve):
        raise ValueError("against.curve: name each variant once, and not that of `of`")


def _check_options(place: str, side: Side) -> None:
    measure = MEASURES[side.measure]
    given = {name for name in ("layers", "within", "where") if getattr(side, name)}
    if extra := sorted(given - {measure.takes, measure.needs}):
        raise ValueError(f"{place}: {side.measure} takes no {extra[0]}: leave it out")
    if measure.needs is not None and measure.needs not in given:
        raise ValueError(f"{place}: {side.measure} needs {measure.needs}")
    if side.within is not None and side.within[0] >= side.within[1]:
        raise ValueError(f"{place}: within should rise, as [0, 0.02]")
