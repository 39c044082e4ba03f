"""What oscillation is counted by, defined once: bins and distances in code steps, limits of frequencies, the lift.

Training, measurements and report read it, so it imports neither torch nor numpy.
"""

from collections.abc import Sequence
from typing import Any

SHARES = {"share": 0.005, "share_high": 0.02}  # oscillation frequencies above which a weight counts
HALF_STEP = 0.5  # the largest distance of a code to the nearest rounding threshold, in code steps
DISTANCE_BINS = 25  # of that distance, over [0, 0.5] code steps
POSITION_BIN = 0.05  # width of a bin of the latent weights' histogram, in code steps


def threshold_distance(position: Any) -> Any:
    """Return the distance of unrounded codes to the nearest rounding threshold, |u - floor(u) - 1/2|, in code steps.

    It lies between 0 (on a threshold) and 1/2 (on a code). Positions are clamped to the outermost codes, so a clamped
    weight has 1/2, however far outside it lies; the outermost codes have a threshold on their inner side only.

    Args:
        position: from :meth:`ofq.quant.quantizers.base.Quantizer.position`, with codes at integers; a tensor or an
            array of any shape.
    """
    return abs(position - position // 1 - HALF_STEP)


def lift(heads: Sequence[dict[str, Any]], key: str) -> float | None:
    """Return how often query and key codes reverse in the same step, relative to independent codes.

        lift = sum of ``key`` over the heads / sum of ``chance`` over the heads

    Args:
        heads: from :meth:`ofq.oscillation.coupling.CouplingObserver.coupling`, or ``coupling`` in ``probe.json``.
        key: ``same``: query and keys of one head; ``other``: query of one head and keys of all others.

    Returns:
        The lift, or None if nothing reversed, or if a model has a single head and thus no other.
    """
    chance = sum(head["chance"] for head in heads)
    values = [head[key] for head in heads]
    return None if not chance or None in values else float(sum(values) / chance)
