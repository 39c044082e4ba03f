"""Verdicts from a few paired differences: t-tests, Holm's correction, equivalence, and how many seeds would decide."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from ofq.report.claims.terms import Expectation

LEVEL = 0.05
"""Family-wise error over all tested claims of a study."""
POWER = 0.8
MOST_SEEDS = 1000
ABSURD = f"more than {MOST_SEEDS}"

Verdict = Literal["supported", "contradicted", "undecided", "untested"]
_DIGITS = 9  # decimals; differences that agree in these differ by rounding only


@dataclass(frozen=True)
class Estimate:
    """The mean of paired differences, and how certain it is.

    Attributes:
        n: number of differences.
        effect: their mean, or None if there are none.
        sd: sample standard deviation, or None with fewer than two.
        interval: 95 % confidence interval, not corrected; None if the spread is not known.
        p: p against the hypothesis that there is nothing to decide, see :func:`estimate`; None if it is not known.
    """

    n: int
    effect: float | None = None
    sd: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A verdict and the numbers behind it.

    Attributes:
        estimate: estimate from the claim's differences.
        p_adjusted: p after Holm's correction, or None.
        verdict: verdict on the claim.
        seeds: how many seeds would decide it; ``more than 1000``; or None if that is not known or not needed.
    """

    estimate: Estimate
    p_adjusted: float | None
    verdict: Verdict
    seeds: int | str | None


def estimate(differences: Sequence[float], margin: float | None = None) -> Estimate:
    """Estimate the mean d of n differences with standard deviation s by Student's t, df = n - 1.

    Without a margin, p is the two-sided p of d = 0. With a margin m two hypotheses can be decided, and d says which is
    tested. If |d| <= m, p is the larger p of the one-sided tests of d <= -m and of d >= m (equivalence). Otherwise it
    is the two-sided p of |d| <= m.

    Equal differences have no spread to test with. If all are 0, nothing differs, and p is 1, or 0 for equivalence.
    Otherwise interval and p are None.

    Args:
        differences: one for each seed.
        margin: margin of a claim that two quantities are equal.
    """
    n = len(differences)
    if n == 0:
        return Estimate(0)
    values = np.round(np.asarray(differences, dtype=float), _DIGITS)
    effect = float(values.mean())
    if n == 1:
        return Estimate(1, effect)
    if np.ptp(values) == 0:
        if effect == 0:
            return Estimate(n, 0.0, 0.0, (0.0, 0.0), 1.0 if margin is None else 0.0)
        return Estimate(n, effect, 0.0)
    test = stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(1 - LEVEL)
    p = float(test.pvalue) if margin is None else _equivalence(values, effect, margin)
    return Estimate(n, effect, float(values.std(ddof=1)), (float(low), float(high)), p)


def _equivalence(values: np.ndarray, effect: float, margin: float) -> float:
    def p(border: float, side: Literal["greater", "less"]) -> float:
        return float(stats.ttest_1samp(values, border, alternative=side).pvalue)

    if abs(effect) <= margin:
        return max(p(-margin, "greater"), p(margin, "less"))
    return 2 * min(p(margin, "greater"), p(-margin, "less"))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p: with m known p_j in rising order, j from 0, max over j <= i of min(1, (m - j) * p_j).

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    known = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[place] = largest
    return adjusted


def judge(
    differences: Sequence[Sequence[float]], expectations: "Sequence[tuple[Expectation, float | None]]"
) -> list[Outcome]:
    """Return the outcomes of all claims of a study together.

    Args:
        differences: differences of each claim, one for each seed.
        expectations: expectation of each claim, with its margin if it expects equality.
    """
    estimates = [estimate(values, margin) for values, (_, margin) in zip(differences, expectations, strict=True)]
    adjusted = holm([one.p for one in estimates])
    tested = [p for p in adjusted if p is not None]
    # The level that the next claim to be decided has to pass; those already decided are set aside.
    level = LEVEL / max(1, len(tested) - sum(p < LEVEL for p in tested))
    outcomes = []
    for one, p, (expect, margin) in zip(estimates, adjusted, expectations, strict=True):
        decision = verdict(one, p, expect, margin)
        seeds = seeds_to_decide(one, level, margin) if decision == "undecided" else None
        outcomes.append(Outcome(one, p, decision, seeds))
    return outcomes


def verdict(found: Estimate, p_adjusted: float | None, expect: "Expectation", margin: float | None) -> Verdict:
    """Return ``supported`` or ``contradicted``, by where the effect lies, if the adjusted p is below 0.05."""
    if found.effect is None:
        return "untested"
    if p_adjusted is None or p_adjusted >= LEVEL:
        return "undecided"
    if margin is not None:
        holds = abs(found.effect) <= margin
    else:
        holds = found.effect < 0 if expect == "below" else found.effect > 0
    return "supported" if holds else "contradicted"


def seeds_to_decide(found: Estimate, level: float, margin: float | None = None) -> int | str | None:
    """Return the least number of seeds that decides a claim with 80 % probability.

    Effect d and standard deviation s are assumed to be those seen. The power of a t-test with n seeds is the tail,
    beyond the critical value, of the t distribution with noncentrality sqrt(n) * d/s. For equivalence within a margin m
    the power is at least P(T(m + d)) + P(T(m - d)) - 1, and this bound is used. For a difference beyond the margin,
    d - m takes the place of d.

    Args:
        found: an estimate.
        level: the level that p has to pass.
        margin: as in :func:`estimate`.

    Returns:
        The number; ``more than 1000``; or None if the spread is not known.
    """
    if found.effect is None or not found.sd:
        return None
    n = np.arange(2, MOST_SEEDS + 1)
    effect = abs(found.effect)
    if margin is None or effect > margin:
        power = _power(n, (effect - (margin or 0.0)) / found.sd, level / 2)
    else:
        low, high = (_power(n, reach / found.sd, level) for reach in (margin + effect, margin - effect))
        power = low + high - 1
    enough = n[power >= POWER]
    return int(enough[0]) if enough.size else ABSURD


def _power(n: np.ndarray, effect: float, one_sided: float) -> np.ndarray:
    """Return the probability that t exceeds its critical value, for each n; ``effect`` in standard deviations."""
    power: np.ndarray = stats.nct.sf(stats.t.isf(one_sided, n - 1), n - 1, effect * np.sqrt(n))
    return power
