"""Write the claims of a study as a Markdown page."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from ofq.config.grid import Grid
from ofq.report.claims.pairs import Pairs
from ofq.report.claims.quantities import Side
from ofq.report.claims.statistics import LEVEL, Estimate, Outcome, estimate
from ofq.report.claims.terms import Claim, ClaimsFile
from ofq.report.render import interval, markdown, p_value
from ofq.runs.paths import TEACHER

_EXPLAINED = """\
Each row is a statement of a paper and the comparison that tests it. The effect is the first quantity less the second,
paired by seed, as a mean over n seeds with its 95 % interval; where several bit widths or models are named, each seed
counts once, with its mean over them. p is that of Student's t-test on these differences, for "equal" that of two
one-sided tests within the margin, after Holm's correction for all {tested} claims tested here: the chance that even
one of the verdicts "supported" and "contradicted" is wrong is at most {level:g} %, as far as differences between
seeds are normal. The intervals are not corrected, so that one may exclude 0 where p does not decide; the row says so.
Below an effect over several widths stands that at each width, which is not tested by itself and has no p;
where two of these intervals lie on opposite sides of 0, the row says that the widths disagree. An undecided claim
says how many seeds would decide it with 80 % probability, if effect and spread are those seen.

A verdict is about this study: its images, models, bit widths and steps. The papers trained on ImageNet; "contradicted
on {study}" says that the opposite was measured on {study}, and refutes nothing about ImageNet. Only seeds vary; other
data, models or recipes may decide otherwise.
[How verdicts are made, and how a claim is added](../../../docs/claims.md)."""


_WHERE = {"boundary": "near thresholds", "random": "anywhere"}


class Row(NamedTuple):
    """A claim with its runs and its outcome."""

    name: str
    claim: Claim
    pairs: Pairs
    outcome: Outcome

    @property
    def parts(self) -> dict[tuple[str, str], Estimate]:
        """Estimates of the effect at each model and bit width, not corrected; their p must not be used."""
        return {place: estimate(values) for place, values in self.pairs.parts.items()}

    @property
    def disagree(self) -> bool:
        """Whether the intervals of two widths lie on opposite sides of 0; then their mean says little."""
        known = [part.interval for part in self.parts.values() if part.interval]
        return any(low > 0 for low, _ in known) and any(high < 0 for _, high in known)


def page(grid: Grid, file: ClaimsFile, rows: Sequence[Row]) -> str:
    """Return the page: a heading, what was tested and corrected for, and a table for each topic.

    Args:
        grid: the study's main grid.
        file: the claims file, which names the topics.
        rows: the claims in the order of the file.
    """
    counts = Counter(row.outcome.verdict for row in rows)
    tested = sum(row.outcome.p_adjusted is not None for row in rows)
    verdicts = ", ".join(f"{counts[name]} {name}" for name in ("supported", "contradicted", "undecided", "untested"))
    parts = [
        f"# The papers' claims on {grid.study}",
        f"The {subject(grid, rows)}. Of {len(rows)} claims: {verdicts}.",
        _EXPLAINED.format(tested=tested, level=100 * LEVEL, study=grid.study),
    ]
    for topic, title in file.topics.items():
        chosen = [row for row in rows if row.claim.topic == topic]
        if chosen:
            table = pd.DataFrame([_cells(row, grid, file.scope(grid.study)) for row in chosen])
            parts += [f"## {title}", markdown(table, padded=False)]
    return "\n\n".join(parts) + "\n"


def subject(grid: Grid, rows: Sequence[Row]) -> str:
    """Name the images, models and seeds of which the claims speak."""
    models = list(dict.fromkeys(run.model for row in rows for run in row.pairs.runs)) or grid.models
    seeds = sorted({run.seed for row in rows for run in row.pairs.runs}) or grid.seeds
    named = f"{_named('model', models)}; {_named('seed', [str(seed) for seed in seeds])}"
    return f"{grid.data.evaluate} images of {grid.data.title}; {named}"


def comparison(claim: Claim, bits: Sequence[str] = ()) -> str:
    """Describe in words what is compared, such as ``osc_share of lsq (q, k) less that of lsq (v)``.

    Args:
        claim: the claim whose quantities are compared.
        bits: widths that had runs; if there are none, the widths that the claim names are used.
    """
    left, right = claim.left, claim.right
    if not isinstance(right, Side):
        against = f"{right:g}"
    elif right.variant == TEACHER:
        against = "that of its teacher"
    elif right.curve:
        against = f"that of the curve through {', '.join(right.curve)} at its own width"
    else:
        against = f"{'that' if right.measure == left.measure else right.measure} of {_side(right)}"
    text = f"{left.measure} of {_side(left)} less {against}{', in percent of it' if claim.relative else ''}"
    expected = (
        f"{claim.expect} 0 expected" if claim.margin is None else f"within ±{claim.margin:g} {claim.unit} expected"
    )
    widths = ", ".join(bits or claim.bits or [])
    return "; ".join(part for part in (text, widths if left.bits is None else "", expected) if part)


def _models(row: Row, grid: Grid) -> str:
    """Name the models if one of them is not in the study's main grid."""
    models = dict.fromkeys(model for model, _ in row.pairs.parts)
    return "" if set(models) <= set(grid.models) else f"; on {', '.join(models)}"


def _side(side: Side) -> str:
    gain = f"{side.variant} over {side.over}" if side.over else side.variant
    narrowed = [
        side.bits,
        ", ".join(side.layers or ()),
        f"distance {side.within[0]:g} to {side.within[1]:g}" if side.within else None,
        f"noise {_WHERE[side.where]}, all ranges" if side.where else None,
    ]
    text = "; ".join(filter(None, narrowed))
    return f"{gain} ({text})" if text else gain


def _cells(row: Row, grid: Grid, scope: str | None) -> dict[str, str]:
    outcome = row.outcome
    verdict = f"**{outcome.verdict}** on {grid.study}{f' ({scope})' if scope else ''}"
    if row.disagree:
        verdict += "<br><sub>bit widths disagree</sub>"
    elif row.pairs.lacking:
        verdict += f"<br><sub>{row.pairs.lacking}</sub>"
    elif outcome.seeds is not None:
        verdict += f"<br><sub>{outcome.seeds} seeds would decide</sub>"
    if _only_by_correction(row):
        verdict += "<br><sub>its interval excludes 0, but p is corrected for all claims</sub>"
    if (outside := row.pairs.outside) and not row.pairs.lacking:
        verdict += f"<br><sub>runs left out, as their steps lie outside the curve: {len(outside)}</sub>"
    about = f"{row.claim.source.rstrip('.')}.<br>Tested: {comparison(row.claim, row.pairs.bits)}{_models(row, grid)}"
    return {
        "verdict": verdict,
        "statement": f"{row.claim.statement}<br><sub>{about}</sub>",
        "effect, 95 % interval": _effect(row),
        "n": str(outcome.estimate.n),
        "p, corrected": p_value(outcome.p_adjusted),
    }


def _only_by_correction(row: Row) -> bool:
    """Return whether the interval lies on one side of 0 and the claim is undecided all the same."""
    low, high = row.outcome.estimate.interval or (0.0, 0.0)
    return row.outcome.verdict == "undecided" and row.claim.margin is None and low * high > 0


def _effect(row: Row) -> str:
    found = row.outcome.estimate
    if found.effect is None:
        return "–"
    text = f"{interval(found.effect, found.interval)} {row.claim.unit}"
    parts = row.parts
    if len(parts) > 1:
        several = len({model for model, _ in parts}) > 1
        lines = [
            f"{f'{model} ' if several else ''}{bits} {interval(part.effect, part.interval)}"
            for (model, bits), part in parts.items()
            if part.effect is not None
        ]
        text += f"<br><sub>{'<br>'.join(lines)}</sub>"
    return text


def _named(kind: str, names: Sequence[str]) -> str:
    return f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names)}"
