"""The largest of several quantities, each with its own interval."""

import math
from collections.abc import Sequence
from dataclasses import replace

from compression_gates.evals.statistics.estimate import CONFIDENCE_LEVEL, Estimate, estimate


def largest(estimates: Sequence[Estimate], confidence_level: float = CONFIDENCE_LEVEL) -> Estimate:
    """Return the largest of k quantities, with the interval from their simultaneous intervals.

    Each quantity gets an interval at the level ``1 - (1 - confidence_level) / k``. By Bonferroni's
    inequality all of them hold together with a probability of at least ``confidence_level``, and
    then the largest quantity is between the largest lower end and the largest upper end.

    Args:
        estimates: of the quantities, from different items.
        confidence_level: of the interval of the largest quantity.

    Returns:
        The estimate, with the items and documents of all quantities. It is NaN if one of them is,
        and marked as unreliable if one of them is. A single estimate is returned as it is.

    Raises:
        ValueError: there are no estimates.
    """
    if not estimates:
        raise ValueError("estimates must not be empty")
    if len(estimates) == 1:
        return estimates[0]

    def bounds(level: float) -> tuple[float, float]:
        adjusted = 1 - (1 - level) / len(estimates)
        ends = [x.bounds(adjusted) if x.bounds else (x.low, x.high) for x in estimates]
        lows, highs = zip(*ends, strict=True)
        return _maximum(lows), _maximum(highs)

    value = _maximum([x.value for x in estimates])
    items, documents = sum(x.n for x in estimates), sum(x.clusters for x in estimates)
    combined = estimate(value, bounds, items, documents, confidence_level)
    unreliable = next((x.unreliable for x in estimates if x.unreliable), "")
    return replace(combined, unreliable=unreliable, samples=len(estimates))


def _maximum(values: Sequence[float]) -> float:
    """Return the largest value; NaN if one of them is."""
    return math.nan if any(map(math.isnan, values)) else max(values)
