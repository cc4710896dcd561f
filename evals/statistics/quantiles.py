"""Confidence intervals of quantiles of item values, clustered by document."""

import math
from bisect import bisect_left
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.statistics.clusters import ClusterSums, t_quantile
from compression_gates.evals.statistics.estimate import CONFIDENCE_LEVEL, Estimate, estimate
from compression_gates.evals.statistics.means import series_of
from compression_gates.evals.statistics.proportions import proportion_of

_ROUNDING = 1e-9
"""Tolerance in ranks, so that 0.9 * 10 has the rank 9."""


def clustered_quantile(
    values: ArrayLike,
    clusters: ArrayLike,
    q: float,
    confidence_level: float = CONFIDENCE_LEVEL,
    is_series: bool = False,
) -> Estimate:
    """Return a quantile of item values, with an interval by test inversion.

    The interval consists of the numbers for which the share of the values above them may be
    ``1 - q``: by the interval of a clustered proportion
    (:func:`evals.statistics.proportions.clustered_proportion`), or by the t test of that share with
    the cluster-robust variance around ``1 - q`` itself. For independent values it is the
    interval between two order statistics (David and Nagaraja 2003, *Order Statistics*, section
    7.1). If even the share above the largest value may be ``1 - q``, it has no upper end. If all
    values are exactly 0, as for identical predictions, it is [0, 0], as for a mean.

    Args:
        values: ``(n,)``.
        clusters: ``(n,)``, the document of each item.
        q: share of the values that are at most the quantile, in (0, 1).
        confidence_level: of the two-sided interval.
        is_series: whether ``clusters`` are consecutive windows of one document, which are
            autocorrelated. The interval of the share is then the wider of that of the proportion
            and that of :func:`evals.statistics.means.series_mean`.

    Returns:
        The smallest value that at least a share of ``q`` of the values does not exceed. The
        interval is unbounded if there is only one cluster, and NaN if a value is. It is marked as
        unreliable if the proportion of the values above the quantile is.

    Raises:
        ValueError: there are no values, the shapes differ, or ``q`` is not in (0, 1).

    >>> clustered_quantile([4.0, 1.0, 3.0, 2.0], [0, 1, 2, 3], 0.5).value
    2.0
    """
    if not 0 < q < 1:
        raise ValueError(f"q has to be between 0 and 1, not {q}")
    sums = ClusterSums.of(values, clusters)
    values = np.asarray(values, dtype=np.float64)
    ordered, n = np.sort(values), values.size
    value = float(ordered[max(math.ceil(q * n - _ROUNDING), 1) - 1])
    if sums.has_no_interval:
        value = math.nan if math.isnan(sums.mean) else value
        return replace(sums.estimate_without_interval(confidence_level), value=value)
    if not values.any():
        return estimate(0.0, lambda level: (0.0, 0.0), n, sums.cluster_count, confidence_level)
    _, documents = np.unique(np.asarray(clusters), return_inverse=True)

    @cache
    def shares_above(threshold: float) -> list[Estimate]:
        totals = np.bincount(documents, values > threshold, minlength=len(sums.sizes))
        above = ClusterSums(totals, sums.sizes)
        shares = [proportion_of(above), _by_null_variance(above, 1 - q)]
        return [*shares, *([series_of(above)] if is_series else [])]

    distinct = np.unique(ordered)

    def bounds(level: float) -> tuple[float, float]:
        def share_bounds(threshold: float) -> tuple[float, float]:
            lows, highs = zip(*(x.bounds(level) for x in shares_above(threshold)), strict=True)
            return min(lows), max(highs)

        # The share above a value falls with the value, and so do both ends of its interval.
        first = bisect_left(distinct, True, key=lambda x: share_bounds(x)[0] <= 1 - q)
        after = bisect_left(distinct, True, key=lambda x: share_bounds(x)[1] < 1 - q)
        high = float(distinct[after]) if after < len(distinct) else math.inf
        return min(float(distinct[min(first, len(distinct) - 1)]), value), max(high, value)

    quantile = estimate(value, bounds, n, sums.cluster_count, confidence_level)
    # Of windows, the reason is that of the series; otherwise that of the proportion.
    share = shares_above(value)[2 if is_series else 0]
    return replace(quantile, unreliable=share.unreliable, unit=share.unit)


NO_UPPER_BOUND = "a sample has no upper bound of the largest value"


def sample_maximum(
    values: ArrayLike, clusters: ArrayLike, confidence_level: float = CONFIDENCE_LEVEL
) -> Estimate:
    """Return the largest value of a sample, as a lower bound of the largest possible value.

    Without an assumption about the distribution there is no upper bound: however many values were
    drawn, a larger one may be so rare that none was. The interval therefore extends to infinity at
    every confidence level, and is marked as unreliable. A largest value above a limit still proves
    that the limit is broken, because the value occurred.

    Args:
        values: ``(n,)``.
        clusters: ``(n,)``, the document of each item.
        confidence_level: of the interval; it changes nothing.

    Raises:
        ValueError: there are no values, or the shapes differ.

    >>> sample_maximum([4.0, 1.0, 3.0], [0, 1, 1]).high
    inf
    """
    sums = ClusterSums.of(values, clusters)
    value = float(np.max(np.asarray(values, dtype=np.float64)))
    ends = (value, math.nan if math.isnan(value) else math.inf)
    maximum = estimate(value, lambda level: ends, sums.item_count, sums.cluster_count,
                       confidence_level)  # fmt: skip
    return replace(maximum, unreliable=NO_UPPER_BOUND)


def _by_null_variance(sums: ClusterSums, p: float) -> Estimate:
    """Return the share with an interval that contains ``p`` if the t test with the variance around
    ``p`` does not reject it, and otherwise only the share.

    The variance around the share itself is too small in samples whose share is far from ``p``.
    """
    residuals = (sums.totals - sums.sizes * p) / np.sqrt(1 - sums.shares)
    error = math.sqrt(np.square(residuals).sum()) / sums.item_count

    def bounds(level: float) -> tuple[float, float]:
        is_accepted = abs(sums.mean - p) <= t_quantile(level, sums.degrees_of_freedom) * error
        ends = (sums.mean, p) if is_accepted else (sums.mean, sums.mean)
        return min(ends), max(ends)

    return sums.estimate(bounds, CONFIDENCE_LEVEL)
