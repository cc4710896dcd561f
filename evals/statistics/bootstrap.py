"""The BCa bootstrap interval of a mean, as a reference for comparison. No gate uses it."""

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.statistics.clusters import ClusterSums
from compression_gates.evals.statistics.estimate import CONFIDENCE_LEVEL, Estimate

RESAMPLES = 4999
_SEED = 20140501


def bca_mean(
    values: ArrayLike,
    clusters: ArrayLike,
    confidence_level: float = CONFIDENCE_LEVEL,
    resamples: int = RESAMPLES,
    seed: int = _SEED,
) -> Estimate:
    """Return the mean over items with the bias-corrected and accelerated bootstrap interval over
    documents (BCa, Efron 1987), computed by :func:`scipy.stats.bootstrap`.

    Args:
        values: ``(n,)``.
        clusters: ``(n,)``, the document of each item.
        confidence_level: of the two-sided interval.
        resamples: number of bootstrap samples.
        seed: of the bootstrap samples.

    Returns:
        As :func:`evals.statistics.means.clustered_mean`.
    """
    from scipy.stats import bootstrap

    sums = ClusterSums.of(values, clusters)
    if sums.has_no_interval:
        return sums.estimate_without_interval(confidence_level)
    if not sums.standard_error > 0:
        ends = (sums.mean, sums.mean)
        return sums.estimate(lambda level: ends, confidence_level)
    options = dict(paired=True, vectorized=True, method="BCa")

    def mean_of(totals: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
        return totals.sum(axis) / sizes.sum(axis)

    data = (sums.totals, sums.sizes)
    samples = bootstrap(data, mean_of, n_resamples=resamples, rng=seed, **options)

    def bounds(level: float) -> tuple[float, float]:
        result = bootstrap(
            data, mean_of, n_resamples=0, bootstrap_result=samples, confidence_level=level,
            **options,
        )  # fmt: skip
        return tuple(map(float, result.confidence_interval))

    return sums.estimate(bounds, confidence_level)
