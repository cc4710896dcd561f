"""Intervals over per-item values, clustered by document. Pure and deterministic.

Items of one document resemble each other, so a document, not an item, is the unit of chance.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the point estimate.
        low, high: two-sided interval at ``confidence``.
        n: items that it rests on.
        clusters: documents that they come from.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int
    confidence: float = CONFIDENCE

    def map(self, function) -> "Estimate":
        """The estimate of an increasing function of the quantity."""
        return replace(
            self,
            value=function(self.value),
            low=function(self.low),
            high=function(self.high),
        )

    def __neg__(self) -> "Estimate":
        return replace(self, value=-self.value, low=-self.high, high=-self.low)


def exact(value: float, n: int = 1) -> Estimate:
    """A number that was counted, not sampled."""
    return Estimate(value, value, value, n, n)


def clustered_mean(
    values: ArrayLike, clusters: ArrayLike, confidence: float = CONFIDENCE
) -> Estimate:
    """Mean over items with a cluster-robust t interval.

    The mean over all items is a ratio of cluster sums, ``sum_g s_g / sum_g n_g``; its variance is
    linearised (Cochran 1977, section 6.3)::

        Var = G / (G - 1) * sum_g (s_g - n_g * mean)^2 / N^2

    and the interval takes Student's t with G - 1 degrees of freedom.

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
    values = np.asarray(values, dtype=np.float64)
    clusters = np.asarray(clusters)
    if values.shape != clusters.shape or values.ndim != 1:
        raise ValueError(f"values {values.shape} and clusters {clusters.shape} do not match")
    if not values.size:
        raise ValueError("an empty sample has no mean")
    mean = float(values.mean())
    _, index = np.unique(clusters, return_inverse=True)
    groups = int(index.max()) + 1
    if groups == 1:
        return Estimate(mean, -math.inf, math.inf, values.size, 1, confidence)
    deviations = np.bincount(index, values - mean)
    variance = groups / (groups - 1) * float(deviations @ deviations) / values.size**2
    half = _student_t(confidence, groups - 1) * math.sqrt(variance)
    return Estimate(mean, mean - half, mean + half, values.size, groups, confidence)


def clustered_share(
    values: ArrayLike, clusters: ArrayLike, confidence: float = CONFIDENCE
) -> Estimate:
    """:func:`clustered_mean` of values of which many are zero and none is beyond one in size.

    Where few items differ, their sample variance says little of how many might, and the t
    interval is too short. So it is widened to where the losses (values above zero) and the gains
    (below) could each lie: Wilson's interval for either share, put together by squares and sums
    (Newcombe 1998, method 10). No event in n leaves ``t^2 / (n + t^2)``, the "rule of three".

    Args:
        values: ``(n,)``, in [-1, 1].
        clusters: ``(n,)``, the document of each item.
    """
    found = clustered_mean(values, clusters, confidence)
    if found.clusters == 1 or math.isnan(found.value):
        return found
    values = np.asarray(values, dtype=np.float64)
    loss, gain = (
        _wilson(clustered_mean(part, clusters, confidence))
        for part in (values.clip(min=0), -values.clip(max=0))
    )
    below = math.hypot(loss.value - loss.low, gain.high - gain.value)
    above = math.hypot(loss.high - loss.value, gain.value - gain.low)
    return replace(
        found, low=min(found.low, found.value - below), high=max(found.high, found.value + above)
    )


def _wilson(share: Estimate) -> Estimate:
    """Wilson's interval for a share, at the sample size that its clusters are worth."""
    t = _student_t(share.confidence, share.clusters - 1)
    p, variance = share.value, ((share.high - share.value) / t) ** 2
    size = min(p * (1 - p) / variance, share.n) if variance > 0 else share.clusters
    centre = (p + t**2 / (2 * size)) / (1 + t**2 / size)
    half = t * math.sqrt(p * (1 - p) / size + (t / (2 * size)) ** 2) / (1 + t**2 / size)
    return replace(share, low=min(centre - half, p), high=max(centre + half, p))


def median_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
    """Median with a distribution-free interval from order statistics (binomial, exact).

    The interval runs from the k-th smallest to the k-th largest value, with the largest k whose
    coverage ``1 - 2 P(Binomial(n, 1/2) < k)`` reaches the confidence; unbounded where none does.
    """
    from scipy.stats import binom

    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = ordered.size
    if not n:
        raise ValueError("an empty sample has no median")
    k = int(binom.ppf((1 - confidence) / 2, n, 0.5))
    low, high = (ordered[k - 1], ordered[n - k]) if k > 0 else (-math.inf, math.inf)
    return Estimate(float(np.median(ordered)), float(low), float(high), n, n, confidence)


def _student_t(confidence: float, degrees: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.5 + confidence / 2, degrees))
