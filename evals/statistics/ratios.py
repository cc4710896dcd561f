"""Ratio of two means over the same items, which are clustered by document."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.statistics.clusters import ClusterSums
from compression_gates.evals.statistics.estimate import CONFIDENCE_LEVEL, Estimate, estimate
from compression_gates.evals.statistics.means import series_of, studentized_of

_PRECISION = 1e-11
"""Precision of an end of the interval, relative to the upper bound of where it can be."""
_LARGEST = 1e12
"""Largest ratio that is distinguished from infinity."""


def ratio_of_means(
    numerators: ArrayLike,
    denominators: ArrayLike,
    clusters: ArrayLike,
    one_document: bool = False,
    confidence_level: float = CONFIDENCE_LEVEL,
) -> Estimate:
    """Return ``mean(a) / mean(b)`` of paired values, with the interval of Fieller (1954).

    The interval consists of the ratios r for which the interval of ``mean(a - r b)`` contains 0.
    That interval is the one of :func:`means.studentized_mean`, or of :func:`means.series_mean` if
    the clusters are consecutive windows of one document. An interval that excludes 1 is equivalent
    to a paired test of ``mean(a) = mean(b)``.

    Args:
        numerators, denominators: ``(n,)``, ``a`` and ``b``, not negative.
        clusters: ``(n,)``, the document of each item, or the window.
        one_document: whether ``clusters`` are windows of one document.
        confidence_level: of the two-sided interval.

    Returns:
        The ratio. Its interval is unreliable if that of ``mean(a - b)`` is, or if that of
        ``mean(b)`` at the same level contains 0, where the upper end is that of ``value +
        mean(a - value b) / mean(b)``, because Fieller's is infinite. It is unbounded if there is
        only one cluster, and NaN if a value is.

    Raises:
        ValueError: there are no values, the shapes differ, or the mean of ``b`` is not positive.
    """
    top, bottom = (ClusterSums.of(values, clusters) for values in (numerators, denominators))
    if not bottom.mean > 0 and not math.isnan(bottom.mean):
        raise ValueError("a ratio to a mean that is not positive is undefined")
    interval = series_of if one_document else studentized_of

    def difference(ratio: float) -> Estimate:
        return interval(ClusterSums(top.totals - ratio * bottom.totals, top.sizes))

    value = top.mean / bottom.mean
    if top.has_no_interval or math.isnan(value):
        return replace(top.estimate_without_interval(confidence_level), value=value)
    at_value = difference(value)
    if np.array_equal(top.totals, value * bottom.totals):
        ends = (value, value)
        same = estimate(value, lambda level: ends, at_value.n, at_value.clusters, confidence_level)
        return replace(same, unit=at_value.unit)

    def bounds(level: float) -> tuple[float, float]:
        def low(ratio: float) -> float:
            return difference(ratio).bounds(level)[0]

        def high(ratio: float) -> float:
            return difference(ratio).bounds(level)[1]

        if interval(bottom).bounds(level)[0] > 0:
            most = max(2 * value, 1.0)
            while high(most) > 0 and most < _LARGEST:
                most *= 2
            upper = _root(high, value, most)
        else:
            upper = value + high(value) / bottom.mean
        return _root(low, 0.0, value), upper

    unreliable = difference(1.0).unreliable
    if not unreliable and interval(bottom).bounds(confidence_level)[0] <= 0:
        unreliable = "the interval of the denominator contains 0"
    result = estimate(value, bounds, at_value.n, at_value.clusters, confidence_level)
    return replace(result, unreliable=unreliable, unit=at_value.unit)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a decreasing function reaches zero between ``low`` and ``high``, or the end that
    is nearer to it."""
    from scipy.optimize import brentq

    if not function(low) > 0:
        return low
    if not function(high) < 0:
        return high
    return float(brentq(function, low, high, xtol=_PRECISION * high, rtol=_PRECISION))
