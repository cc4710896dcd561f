"""Confidence intervals of proportions and of mean score changes, clustered by document."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.statistics.clusters import ClusterSums, effective_number, t_quantile
from compression_gates.evals.statistics.estimate import CONFIDENCE_LEVEL, Bounds, Estimate
from compression_gates.evals.statistics.means import t_interval
from compression_gates.evals.statistics.tails import Tail, tail_interval, unreliable_reason

MIN_EVENTS = 8
"""Expected number of events (or of non-events) below which Wilson's interval is replaced by that of
Clopper and Pearson, because its coverage may fall below the confidence level."""
EVENT_DOCUMENTS = (8.0, 16.0)
"""Effective number of documents with events: up to the first, the sample size is the number of
documents; from the second on, it follows from the sample variance; in between it is interpolated
geometrically."""
MIN_CHANGED_DOCUMENTS, MIN_CHANGED_SHARE = 20, 0.45
"""Effective number of documents with a change, and effective share of the items with a change, from
which on the mean change of graded scores gets a t interval. The share is 0.64 if all items change
by normally distributed amounts, and 0.5 if the amounts are exponentially distributed."""


def clustered_score_change(
    values: ArrayLike, clusters: ArrayLike, confidence_level: float = CONFIDENCE_LEVEL
) -> Estimate:
    """Return the mean change of scores in [0, 1]: of right answers, F1 or ROUGE.

    If few items change, the sample variance is a poor estimate of the variance. Losses (values
    above zero) and gains (below) therefore get an interval for a rare proportion each, and the two
    are combined by the method of variance estimates recovery, MOVER (Zou & Donner 2008), with the
    correlation of mutually exclusive events::

        below^2 = dl^2 - 2 phi dl dg + dg^2,    phi = -sqrt(p q / ((1 - p) (1 - q)))

    Here p is the proportion of losses, q that of gains, and dl and dg are the distances from each
    to the respective end of its own interval. At each end, the wider of this interval and the
    cluster-robust t interval is used. The interval of a proportion is Wilson's (1927); without any
    event its upper end is the mid-p limit ``1 - (1 - confidence_level)^(1 / n)``, about 3 / n (the
    "rule of three").

    Graded scores may all change a little, and then no proportion is rare. If most of the items
    change, by :data:`MIN_CHANGED_DOCUMENTS` and :data:`MIN_CHANGED_SHARE`, the interval is the t
    interval with Hall's correction for skewness. It does not account for rare large changes of
    which the sample has none.

    Args:
        values: ``(n,)``, in [-1, 1]; positive for a loss.
        clusters: ``(n,)``, the document of each item.
        confidence_level: of the two-sided interval.

    Returns:
        The mean. The interval is unbounded if there is only one cluster, and NaN if a value is. It
        is marked as unreliable if documents have several items, some of which change, and there are
        fewer than 30 effective documents.

    Raises:
        ValueError: there are no values, or the shapes differ.
    """
    sums = ClusterSums.of(values, clusters)
    if sums.has_no_interval:
        return sums.estimate_without_interval(confidence_level)
    values = np.asarray(values, dtype=np.float64)
    if sums.standard_error > 0 and _most_items_change(values, clusters):
        bounds = tail_interval(sums, Tail.of(sums).without_stretch())
    else:
        losses = ClusterSums.of(values.clip(min=0), clusters)
        gains = ClusterSums.of(-values.clip(max=0), clusters)
        bounds = _wider(_mover(losses, gains), t_interval(sums))
    return _flag_few_documents(sums.estimate(bounds, confidence_level), sums)


def _most_items_change(values: np.ndarray, clusters: ArrayLike) -> bool:
    """Return whether the scores are graded and most of the items change."""
    if np.isin(values, (-1.0, 0.0, 1.0)).all():
        return False
    sizes = np.abs(values)
    documents = effective_number(ClusterSums.of(sizes, clusters).totals)
    return (
        documents >= MIN_CHANGED_DOCUMENTS
        and effective_number(sizes) >= MIN_CHANGED_SHARE * values.size
    )


def _wider(first: Bounds, second: Bounds) -> Bounds:
    """Return the union of two overlapping intervals."""

    def bounds(level: float) -> tuple[float, float]:
        lows, highs = zip(first(level), second(level), strict=True)
        return min(lows), max(highs)

    return bounds


def _mover(losses: ClusterSums, gains: ClusterSums) -> Bounds:
    """Return the MOVER interval of the difference of two mutually exclusive proportions."""
    p, q = losses.mean, gains.mean
    loss_size, gain_size = _effective_sample_size(losses), _effective_sample_size(gains)
    phi = -math.sqrt(p * q / ((1 - p) * (1 - q))) if p < 1 and q < 1 else 0.0

    def distance(loss: float, gain: float) -> float:
        return math.sqrt(max(loss**2 - 2 * phi * loss * gain + gain**2, 0.0))

    def bounds(level: float) -> tuple[float, float]:
        t = t_quantile(level, losses.degrees_of_freedom)
        loss_low, loss_high = _rare_proportion(p, loss_size, level, t)
        gain_low, gain_high = _rare_proportion(q, gain_size, level, t)
        return (
            p - q - distance(p - loss_low, gain_high - q),
            p - q + distance(loss_high - p, q - gain_low),
        )

    return bounds


def clustered_proportion(
    hits: ArrayLike, clusters: ArrayLike, confidence_level: float = CONFIDENCE_LEVEL
) -> Estimate:
    """Return the proportion of ones, with an interval at the effective sample size.

    The interval is Wilson's (1927) with Student's t if at least :data:`MIN_EVENTS` events and
    non-events are expected. With fewer its coverage would drop to 90 %, so the exact interval of
    Clopper and Pearson (1934) is used, at the effective sample size with the correction of the
    degrees of freedom of Korn and Graubard (1998). Its coverage is never below the confidence
    level, and may reach 100 %.

    Args:
        hits: ``(n,)``, 0 or 1.
        clusters: ``(n,)``, the document of each item.
        confidence_level: of the two-sided interval.

    Returns:
        As :func:`clustered_score_change`.

    Raises:
        ValueError: there are no values, or the shapes differ.
    """
    return proportion_of(ClusterSums.of(hits, clusters), confidence_level)


def proportion_of(sums: ClusterSums, confidence_level: float = CONFIDENCE_LEVEL) -> Estimate:
    """Return :func:`clustered_proportion` of the number of ones in each document."""
    if sums.has_no_interval:
        return sums.estimate_without_interval(confidence_level)
    p, size = sums.mean, _effective_sample_size(sums)
    is_rare = min(p, 1 - p) * size < MIN_EVENTS

    def bounds(level: float) -> tuple[float, float]:
        if is_rare:
            return _clopper_pearson(sums, size, level)
        return _wilson(p, size, t_quantile(level, sums.degrees_of_freedom))

    return _flag_few_documents(sums.estimate(bounds, confidence_level), sums)


def _flag_few_documents(proportion: Estimate, sums: ClusterSums) -> Estimate:
    """Mark an estimate as unreliable if there are too few documents to estimate the correlation
    within documents."""
    if sums.cluster_count == sums.item_count or not sums.standard_error > 0:
        return proportion
    return replace(proportion, unreliable=unreliable_reason(sums))


def _effective_sample_size(sums: ClusterSums) -> float:
    """Return the effective sample size of clustered zeros and ones, between the effective number of
    documents and the number of items."""
    p, variance = sums.mean, sums.standard_error**2
    if not variance > 0:
        return sums.effective_clusters
    by_variance = min(p * (1 - p) / variance, sums.item_count)
    events = sums.totals if p <= 0.5 else sums.sizes - sums.totals
    low, high = EVENT_DOCUMENTS
    weight = min(max((effective_number(events) - low) / (high - low), 0.0), 1.0)
    by_document = min(by_variance, sums.effective_clusters)
    return by_document ** (1 - weight) * by_variance**weight


def _clopper_pearson(
    sums: ClusterSums, size: float, confidence_level: float
) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a proportion, from quantiles of the beta distribution,
    at an effective sample ``size``."""
    from scipy.special import betaincinv

    tail = (1 - confidence_level) / 2
    if sums.standard_error > 0:
        # The sample variance has a factor G / (G - 1), which the binomial variance has not.
        size = min(size * sums.cluster_count / (sums.cluster_count - 1), sums.item_count)
    level = max(confidence_level, 0.01)  # below, both quantiles are about 0
    by_item = t_quantile(level, sums.item_count - 1)
    size *= (by_item / t_quantile(level, sums.degrees_of_freedom)) ** 2
    hits = sums.mean * size
    low = float(betaincinv(hits, size - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, size - hits, 1 - tail)) if hits < size else 1.0
    return min(low, sums.mean), max(high, sums.mean)


def _rare_proportion(
    p: float, size: float, confidence_level: float, t: float
) -> tuple[float, float]:
    """Return Wilson's interval of a proportion, or the mid-p interval if there is no event."""
    if p == 0:
        return 0.0, 1 - (1 - confidence_level) ** (1 / size)
    return _wilson(p, size, t)


def _wilson(p: float, size: float, t: float) -> tuple[float, float]:
    """Return Wilson's interval of a proportion ``p`` of ``size`` items, with Student's ``t``."""
    centre = (p + t**2 / (2 * size)) / (1 + t**2 / size)
    half_width = t * math.sqrt(p * (1 - p) / size + (t / (2 * size)) ** 2) / (1 + t**2 / size)
    return min(centre - half_width, p), max(centre + half_width, p)
