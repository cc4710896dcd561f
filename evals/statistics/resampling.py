"""The bootstrap interval that the field mostly reports, to compare with. No gate uses it."""

import math

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.statistics.clusters import ClusterSums
from compression_gates.evals.statistics.estimate import CONFIDENCE, Estimate, estimate

RESAMPLES = 4999
_SEED = 20140501


def accelerated_mean(
    values: ArrayLike,
    clusters: ArrayLike,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = _SEED,
) -> Estimate:
    """Mean over items with the bias-corrected accelerated bootstrap interval over documents
    (BCa, Efron 1987), by :func:`scipy.stats.bootstrap`.

    Args:
        values: ``(n,)``.
        clusters: ``(n,)``, the document of each item.
        confidence: of the two-sided interval.
        resamples: how many times documents are drawn.
        seed: of the draws.

    Returns:
        As :func:`evals.statistics.clustered_mean`.
    """
    from scipy.stats import bootstrap

    sums = ClusterSums.of(values, clusters)
    if sums.groups == 1 or math.isnan(sums.mean):
        return sums.estimate_without_interval(confidence)
    if not sums.error > 0:
        ends = (sums.mean, sums.mean)
        return estimate(sums.mean, lambda level: ends, sums.count, sums.groups, confidence)
    options = dict(paired=True, vectorized=True, method="BCa")

    def mean_of(totals: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
        return totals.sum(axis) / sizes.sum(axis)

    data = (sums.totals, sums.sizes)
    drawn = bootstrap(data, mean_of, n_resamples=resamples, rng=seed, **options)

    def bounds(level: float) -> tuple[float, float]:
        again = bootstrap(
            data, mean_of, n_resamples=0, bootstrap_result=drawn, confidence_level=level, **options
        )
        return tuple(map(float, again.confidence_interval))

    return estimate(sums.mean, bounds, sums.count, sums.groups, confidence)
