"""Intervals of shares of items, and of changes of shares.

Items of a document may share its fate, so a share has the sample size that its clusters are worth:
that of independent items with the same variance of the mean. Few documents say little of that
variance. Where the effective number of documents that carry events is below :data:`CARRIERS`, the
sample size goes from what the variance says to the effective number of documents itself, as if all
items of a document shared its fate.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.statistics.clusters import ClusterSums, carriers, student_t
from compression_gates.evals.statistics.estimate import CONFIDENCE, Bounds, Estimate, estimate
from compression_gates.evals.statistics.means import t_bounds
from compression_gates.evals.statistics.tails import Tail, reach_of, unreliable

RARE = 8
"""Items on the rare side of a share; of fewer, Wilson's interval may cover less than it says."""
CARRIERS = (8.0, 16.0)
"""Effective documents that carry events: up to the first, the documents are the sample size; from
the second on, the sample variance decides."""
GRADED, MOST = 20, 0.45
"""Effective documents that carry a change, and effective share of the items that do, from which on
graded changes are a mean as any other. The share is 0.64 where all items change by normally
distributed amounts, and 0.5 where their sizes are exponentially distributed."""


def clustered_share(
    values: ArrayLike, clusters: ArrayLike, confidence: float = CONFIDENCE
) -> Estimate:
    """Mean change of scores between 0 and 1: of right and wrong answers, or of F1 and ROUGE.

    Where few items change, their sample variance says little of how many might. So losses (values
    above zero) and gains (below) get an interval for a rare share each, and the two are combined by
    the method of variance estimates recovery, MOVER (Zou & Donner 2008), with the
    correlation of exclusive events::

        below^2 = dl^2 - 2 phi dl dg + dg^2,    phi = -sqrt(p q / ((1 - p) (1 - q)))

    With p the losses, q the gains, dl and dg from each to its own end. The interval is, at each
    end, the wider of this one and the cluster-robust t interval. The interval of a share is
    Wilson's (1927); without any event it ends at the mid-p limit ``1 - (1 - confidence)^(1 / n)``,
    about 3 / n, which is the "rule of three".

    Scores that are not only right or wrong may all change a little, and then no share is rare.
    Where most items carry the change, by :data:`GRADED` and :data:`MOST`, they get the t interval
    with Hall's correction for skewness. It does not cover what rare large changes, none of which
    the sample holds, would add to the mean.

    Args:
        values: ``(n,)``, in [-1, 1]; positive for a loss.
        clusters: ``(n,)``, the document of each item.
        confidence: of the two-sided interval.

    Returns:
        The mean; unbounded where there is but one cluster, NaN where a value is NaN. Called
        unreliable where documents of several items, some of which change, are an effective number
        of fewer than 30.

    Raises:
        ValueError: no value, or lengths that differ.
    """
    sums = ClusterSums.of(values, clusters)
    if sums.groups == 1 or math.isnan(sums.mean):
        return sums.estimate_without_interval(confidence)
    values = np.asarray(values, dtype=np.float64)
    if sums.error > 0 and _many_change_a_little(values, clusters):
        bounds = reach_of(sums, Tail.of(sums).without_stretch())
    else:
        parts = (values.clip(min=0), -values.clip(max=0))
        bounds = _wider(_mover(*(ClusterSums.of(part, clusters) for part in parts)), t_bounds(sums))
    return _told(estimate(sums.mean, bounds, sums.count, sums.groups, confidence), sums)


def _many_change_a_little(values: np.ndarray, clusters: ArrayLike) -> bool:
    """Whether changes are of scores that are not only right or wrong, and of most items."""
    if np.isin(values, (-1.0, 0.0, 1.0)).all():
        return False
    sizes = np.abs(values)
    by_document = carriers(ClusterSums.of(sizes, clusters).totals)
    return by_document >= GRADED and carriers(sizes) >= MOST * values.size


def _wider(one: Bounds, other: Bounds) -> Bounds:
    """The wider end of two intervals, on each side."""

    def bounds(level: float) -> tuple[float, float]:
        (low, high), (other_low, other_high) = one(level), other(level)
        return min(low, other_low), max(high, other_high)

    return bounds


def _mover(losses: ClusterSums, gains: ClusterSums) -> Bounds:
    """Interval of the difference of two exclusive shares at any confidence."""
    p, q = losses.mean, gains.mean
    sizes = _worth(losses), _worth(gains)
    phi = -math.sqrt(p * q / ((1 - p) * (1 - q))) if p < 1 and q < 1 else 0.0

    def bounds(level: float) -> tuple[float, float]:
        t = student_t(level, losses.degrees)
        loss_low, loss_high = _rare_or_wilson(p, sizes[0], level, t)
        gain_low, gain_high = _rare_or_wilson(q, sizes[1], level, t)
        return (
            p - q - _together(p - loss_low, gain_high - q, phi),
            p - q + _together(loss_high - p, q - gain_low, phi),
        )

    return bounds


def _together(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0.0))


def clustered_proportion(
    hits: ArrayLike, clusters: ArrayLike, confidence: float = CONFIDENCE
) -> Estimate:
    """Share of items that are 1 and not 0, at the sample size that their clusters are worth.

    Wilson's interval (1927) with Student's t where at least :data:`RARE` items are on the rare
    side. With fewer it would fall to 90 %, so they get the exact one of Clopper and Pearson (1934),
    at the effective sample size with the correction of degrees of freedom of Korn and Graubard
    (1998). It never covers less than it says, and up to always: of so few outcomes no
    interval covers 95 %.

    Args:
        hits: ``(n,)``, 0 or 1.
        clusters: ``(n,)``, the document of each item.
        confidence: of the two-sided interval.

    Returns:
        As :func:`clustered_share`.

    Raises:
        ValueError: no value, or lengths that differ.
    """
    sums = ClusterSums.of(hits, clusters)
    if sums.groups == 1 or math.isnan(sums.mean):
        return sums.estimate_without_interval(confidence)
    p, size = sums.mean, _worth(sums)
    rare = min(p, 1 - p) * size < RARE

    def bounds(level: float) -> tuple[float, float]:
        if rare:
            return _clopper_pearson(sums, size, level)
        return _wilson(p, size, student_t(level, sums.degrees))

    return _told(estimate(p, bounds, sums.count, sums.groups, confidence), sums)


def _told(found: Estimate, sums: ClusterSums) -> Estimate:
    """The estimate, called unreliable where too few documents tell how alike their items are."""
    alone = sums.groups == sums.count
    return found if alone or not sums.error > 0 else replace(found, unreliable=unreliable(sums))


def _worth(sums: ClusterSums) -> float:
    """The sample size that clusters of zeros and ones are worth, at least the effective number of
    documents and at most the number of items."""
    p, variance = sums.mean, sums.error**2
    if not variance > 0:
        return sums.effective
    by_variance = min(p * (1 - p) / variance, sums.count)
    rare = sums.totals if p <= 0.5 else sums.sizes - sums.totals
    least, enough = CARRIERS
    trust = min(max((carriers(rare) - least) / (enough - least), 0.0), 1.0)
    by_document = min(by_variance, sums.effective)
    return by_document ** (1 - trust) * by_variance**trust


def _clopper_pearson(sums: ClusterSums, size: float, confidence: float) -> tuple[float, float]:
    """Clopper's and Pearson's interval for a share, by quantiles of the beta distribution."""
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    if sums.error > 0:
        # The sample variance is that of one item less.
        size = min(size * sums.groups / (sums.groups - 1), sums.count)
    level = max(confidence, 0.01)  # below, both quantiles are about 0
    size *= (student_t(level, sums.count - 1) / student_t(level, sums.degrees)) ** 2
    hits = sums.mean * size
    low = float(betaincinv(hits, size - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, size - hits, 1 - tail)) if hits < size else 1.0
    return min(low, sums.mean), max(high, sums.mean)


def _rare_or_wilson(p: float, size: float, confidence: float, t: float) -> tuple[float, float]:
    """Wilson's interval for a share; of no event, the mid-p one."""
    if p == 0:
        return 0.0, 1 - (1 - confidence) ** (1 / size)
    return _wilson(p, size, t)


def _wilson(p: float, size: float, t: float) -> tuple[float, float]:
    """Wilson's interval for a share ``p`` of ``size`` items, with Student's ``t``."""
    centre = (p + t**2 / (2 * size)) / (1 + t**2 / size)
    half = t * math.sqrt(p * (1 - p) / size + (t / (2 * size)) ** 2) / (1 + t**2 / size)
    return min(centre - half, p), max(centre + half, p)
