"""Intervals of a mean over items in documents."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.statistics.clusters import ClusterSums, student_t
from compression_gates.evals.statistics.estimate import CONFIDENCE, Bounds, Estimate, estimate
from compression_gates.evals.statistics.tails import Tail, reach_of, unreliable

BANDWIDTH = 0.3
"""Cosines of a series of T windows are ``BANDWIDTH * T^(2/3)``; Lazarus et al. take 0.4, which
covers 93 % of 30 windows with an autocorrelation of 0.6."""


def clustered_mean(
    values: ArrayLike, clusters: ArrayLike, confidence: float = CONFIDENCE
) -> Estimate:
    """Mean over items with a cluster-robust t interval.

    Standard error and degrees of freedom are those of Bell and McCaffrey (2002); see
    :class:`evals.statistics.clusters.ClusterSums`. Right where the means of documents are about
    normal; for skewed ones use :func:`studentized_mean`.

    Args:
        values: ``(n,)``.
        clusters: ``(n,)``, the document of each item.
        confidence: of the two-sided interval.

    Returns:
        The mean; unbounded where there is but one cluster, NaN where a value is NaN.

    Raises:
        ValueError: no value, or lengths that differ.

    >>> clustered_mean([1.0, 2.0, 3.0, 6.0], [0, 0, 1, 1]).value
    3.0
    """
    sums = ClusterSums.of(values, clusters)
    if sums.groups == 1 or math.isnan(sums.mean):
        return sums.estimate_without_interval(confidence)
    return estimate(sums.mean, t_bounds(sums), sums.count, sums.groups, confidence)


def t_bounds(sums: ClusterSums) -> Bounds:
    """The cluster-robust t interval at any confidence."""

    def bounds(level: float) -> tuple[float, float]:
        half = student_t(level, sums.degrees) * sums.error
        return sums.mean - half, sums.mean + half

    return bounds


def studentized_mean(
    values: ArrayLike, clusters: ArrayLike, confidence: float = CONFIDENCE
) -> Estimate:
    """Mean over items of values that may be skewed, such as losses and divergences of tokens.

    The interval is the cluster-robust t interval of :func:`clustered_mean`, extended towards the
    longer tail of the documents by their skewness and spread (:mod:`evals.statistics.tails`).
    :attr:`Estimate.unreliable` says why it may cover less than it says: fewer than 30 effective
    documents, or a few documents that lie too far from all others. Documents whose values are all
    exactly 0 give exactly 0, and are never called unreliable.

    Args:
        values: ``(n,)``.
        clusters: ``(n,)``, the document of each item.
        confidence: of the two-sided interval.

    Returns:
        As :func:`clustered_mean`.

    Raises:
        ValueError: no value, or lengths that differ.
    """
    return _skewed_mean(ClusterSums.of(values, clusters), confidence, "documents")


def series_mean(values: ArrayLike, windows: ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
    """Mean over items of consecutive windows of one document, which resemble their neighbours.

    The interval is the wider, at each end, of that of :func:`studentized_mean`, which takes windows
    for independent, and of the t interval with an equal-weighted cosine estimate of the long-run
    variance (Mueller 2007; Lazarus, Lewis, Stock & Watson 2018). With ``u_t`` the sum
    of the deviations of window t from the mean, T windows, N items::

        L_j = sqrt(2 / T) sum_t cos(pi j (t - 1/2) / T) u_t,    j = 1 .. B
        error^2 = T / (B N^2) sum_j L_j^2,                      B degrees of freedom

    Args:
        values: ``(n,)``.
        windows: ``(n,)``, the window of each item, numbered in the order of the text.
        confidence: of the two-sided interval.

    Returns:
        As :func:`studentized_mean`; :attr:`Estimate.clusters` counts windows.

    Raises:
        ValueError: no value, or lengths that differ.
    """
    sums = ClusterSums.of(values, windows)
    independent = _skewed_mean(sums, confidence, "windows")
    if not math.isfinite(sums.mean) or sums.groups == 1:
        return independent
    deviations = sums.totals - sums.sizes * sums.mean
    count = max(int(BANDWIDTH * sums.groups ** (2 / 3)), 1)
    places = (np.arange(sums.groups) + 0.5) / sums.groups
    cosines = np.cos(np.pi * np.outer(np.arange(1, count + 1), places))
    error = math.sqrt(2 * np.square(cosines @ deviations).sum() / count) / sums.count

    def bounds(level: float) -> tuple[float, float]:
        low, high = independent.bounds(level)
        half = student_t(level, count) * error
        return min(low, sums.mean - half), max(high, sums.mean + half)

    found = estimate(sums.mean, bounds, sums.count, sums.groups, confidence)
    return replace(found, unreliable=independent.unreliable)


def _skewed_mean(sums: ClusterSums, confidence: float, unit: str) -> Estimate:
    if sums.groups == 1 or math.isnan(sums.mean):
        return sums.estimate_without_interval(confidence)
    if not sums.error > 0:  # all the same, or not finite
        ends = (sums.mean, sums.mean)
        found = estimate(sums.mean, lambda level: ends, sums.count, sums.groups, confidence)
        why = unreliable(sums, unit=unit) if sums.totals.any() else ""
        return replace(found, unreliable=why)
    tail = Tail.of(sums)
    found = estimate(sums.mean, reach_of(sums, tail), sums.count, sums.groups, confidence)
    return replace(found, unreliable=unreliable(sums, tail, unit))
