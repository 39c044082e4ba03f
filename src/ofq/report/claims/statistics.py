"""What a few paired differences decide: t-tests, Holm's correction, equivalence, and how many seeds would decide."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from ofq.report.claims.terms import Expectation

LEVEL = 0.05
"""Family-wise error over all tested claims of a study."""
POWER = 0.8
MOST_SEEDS = 1000
ABSURD = f"more than {MOST_SEEDS}"

Verdict = Literal["supported", "contradicted", "undecided", "untested"]
_DIGITS = 9  # differences that agree so far differ by rounding only


@dataclass(frozen=True)
class Estimate:
    """The mean of paired differences, and how surely it lies where.

    Attributes:
        n: number of differences.
        effect: their mean, or None without any.
        sd: sample standard deviation, or None with fewer than two.
        interval: 95 % confidence, not corrected; None where the spread is not known.
        p: against the hypothesis that there is nothing to decide, see :func:`estimate`; None where it is not known.
    """

    n: int
    effect: float | None = None
    sd: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A verdict and what it rests on.

    Attributes:
        estimate: of the claim's differences.
        p_adjusted: p after Holm's correction, or None.
        verdict: of the claim.
        seeds: how many would decide it; ``more than 1000``; or None where that is not known or not needed.
    """

    estimate: Estimate
    p_adjusted: float | None
    verdict: Verdict
    seeds: int | str | None


def estimate(differences: Sequence[float], margin: float | None = None) -> Estimate:
    """Student's t for the mean d of n differences with standard deviation s, df = n - 1.

    Without a margin, p is that of d = 0, two-sided. With a margin m two hypotheses can be decided, and at most one of
    them is near: where |d| <= m, p is the larger of the two one-sided tests of d <= -m and of d >= m (equivalence);
    beyond, it is the two-sided p of |d| <= m.

    Differences that are all alike have no spread to test with: if all are 0, nothing differs and p is 1, or 0 for
    equivalence; if not, interval and p are None.

    Args:
        differences: one a seed.
        margin: of a claim that two quantities are equal.
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
    """Holm's adjusted p: over the m known ones in rising order, max over j <= i of min(1, (m - j) * p_j), j from 0.

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
    differences: Sequence[Sequence[float]], expectations: Sequence[tuple[Expectation, float | None]]
) -> list[Outcome]:
    """Verdicts of all claims of a study together.

    Args:
        differences: of each claim, one a seed.
        expectations: of each claim, with the margin of one that expects equality.
    """
    estimates = [estimate(values, margin) for values, (_, margin) in zip(differences, expectations, strict=True)]
    adjusted = holm([one.p for one in estimates])
    tested = [p for p in adjusted if p is not None]
    # What the next claim to be decided has to pass, those decided already set aside.
    level = LEVEL / max(1, len(tested) - sum(p < LEVEL for p in tested))
    outcomes = []
    for one, p, (expect, margin) in zip(estimates, adjusted, expectations, strict=True):
        found = verdict(one, p, expect, margin)
        seeds = seeds_to_decide(one, level, margin) if found == "undecided" else None
        outcomes.append(Outcome(one, p, found, seeds))
    return outcomes


def verdict(found: Estimate, p_adjusted: float | None, expect: Expectation, margin: float | None) -> Verdict:
    """``supported`` or ``contradicted`` where the adjusted p is below 0.05, by where the effect lies."""
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
    """The least number of seeds with which a claim is decided with 80 % probability.

    Effect d and standard deviation s are taken to be those seen. The power of a t-test with n seeds is the tail of the
    noncentral t distribution beyond the critical value, its centre at sqrt(n) * d/s. For equivalence within a margin m
    it is at least P(T(m + d)) + P(T(m - d)) - 1, which is what is used; for a difference beyond it, d - m stands for d.

    Args:
        found: an estimate.
        level: that p has to pass.
        margin: as in :func:`estimate`.

    Returns:
        The number; ``more than 1000``; or None where the spread is not known.
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
    """Probability that t exceeds its critical value, for each number of seeds; ``effect`` in standard deviations."""
    power: np.ndarray = stats.nct.sf(stats.t.isf(one_sided, n - 1), n - 1, effect * np.sqrt(n))
    return power
