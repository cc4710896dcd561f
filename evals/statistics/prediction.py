"""Prediction limits: limits that a fresh sample of the same size keeps.

A confidence interval contains the true value. A fresh sample deviates from the true value as much
as the present sample does, so the variance of their difference is twice as large: the upper end of
a 95 % confidence interval is exceeded by 6 to 10 % of fresh samples.
"""

import math
from collections.abc import Iterator

import numpy as np

from compression_gates.evals.statistics.estimate import CONFIDENCE_LEVEL, Estimate
from compression_gates.evals.statistics.item_values import MEAN, ItemValues

EXCEEDANCE_RATE = 0.01
"""Share of fresh samples that may exceed a limit."""
SMALLEST_RATE, LARGEST_RATE = 1e-4, 0.5
_MIN_RESAMPLES, _MIN_TAIL = 1999, 20
"""Smallest number of resamples, and of resamples above the quantile that is taken."""
SMOOTHING, INTERVAL_SMOOTHING = 1.0, 1.25
"""Standard deviation of the logarithm of the factors by which the deviations of resampled documents
are multiplied, for the estimate of a fresh sample and for its interval. A small sample lacks the
largest documents of a long tail: without smoothing, limits from 30 lognormal documents are exceeded
by three times as many estimates of fresh samples as intended, and by ten times as many intervals.
The constants are about the smallest that suffice for lognormal documents
(`python -m compression_gates.fixtures.experiments.planning_simulation`). For samples with lighter
tails they are reduced."""
MAX_ENTRIES = 1 << 22
"""Largest number of documents that are resampled at a time."""
MAX_DOCUMENTS = 5000
"""Number of documents above which their mean is treated as normal."""
_SEED = 20140501


def upper_prediction_limit(
    estimate: Estimate,
    items: ItemValues | None,
    rate: float = EXCEEDANCE_RATE,
    whole_interval: bool = False,
    seed: int = _SEED,
) -> float:
    """Return an upper limit that a fresh sample of as many documents exceeds at about ``rate``.

    For means (values of kind :data:`evals.statistics.item_values.MEAN`) this is a studentized
    bootstrap prediction limit: pairs of samples A and B are resampled, and the quantile at
    ``1 - rate`` of ``(mean_B - mean_A) / standard_error_A`` replaces ``sqrt(2) z`` (compare Efron &
    Tibshirani 1993, section 12.5). Otherwise it is the upper end of the interval at the confidence
    level whose normal quantile is ``sqrt(2) z``; for proportions, Wilson's interval has the right
    asymmetry.

    Args:
        estimate: of the present sample; for means on the scale of ``items``.
        items: its values, if they were kept.
        rate: share of fresh samples that may exceed the limit.
        whole_interval: whether the limit applies to the whole interval of the fresh sample, and
            not only to its estimate.
        seed: of the resamples.

    Returns:
        The limit; infinite if the interval is unbounded at that confidence level.
    """
    from scipy.stats import norm

    if estimate.bounds is None:
        return estimate.value
    documents = estimate.clusters
    if items is None or items.kind != MEAN or not 1 < documents <= MAX_DOCUMENTS:
        z = math.sqrt(2) * norm.isf(rate)
        z += norm.isf((1 - CONFIDENCE_LEVEL) / 2) if whole_interval else 0.0
        return estimate.bounds(1 - 2 * float(norm.sf(z)))[1]
    sample = _Sample(items)
    if not sample.standard_error > 0:
        return estimate.high if whole_interval else estimate.value
    ratios = np.concatenate(list(sample.ratios(estimate, rate, whole_interval, seed)))
    return estimate.value + sample.standard_error * float(np.quantile(ratios, 1 - rate))


class _Sample:
    """Documents for a smoothed bootstrap: deviations from the median get random factors."""

    def __init__(self, items: ItemValues):
        self.sizes = items.sizes.astype(np.float64)
        self.deviations = items.values.astype(np.float64) - float(np.median(items.values))
        means, errors, self.skewness = _moments(self.deviations[None], self.sizes[None])
        self.standard_error = float(errors[0])
        residuals = self.sizes * (self.deviations - means)
        excess_kurtosis = 0.0
        if self.standard_error > 0:
            excess_kurtosis = float(np.mean(residuals**4) / np.mean(residuals**2) ** 2 - 3)
        # 0 for normal documents; 1 for most samples that are as skewed as an exponential.
        self.heaviness = min(max(abs(float(self.skewness[0])), excess_kurtosis / 2, 0.0), 1.0)

    def ratios(
        self, estimate: Estimate, rate: float, whole_interval: bool, seed: int
    ) -> Iterator[np.ndarray]:
        """Yield ``(mean_B - mean_A) / standard_error_A`` in chunks that fit into memory.

        With ``whole_interval``, the upper end of B's interval replaces its mean.
        """
        generator = np.random.default_rng(seed)
        smoothing = self.heaviness * (INTERVAL_SMOOTHING if whole_interval else SMOOTHING)
        count = len(self.sizes)
        resamples = max(_MIN_RESAMPLES, math.ceil(_MIN_TAIL / rate))
        chunk = max(MAX_ENTRIES // count, 1)
        # Width of the actual interval relative to that of the Edgeworth expansion.
        by_edgeworth = self.standard_error * _edgeworth_quantile(self.skewness, count)[0]
        relative_width = (estimate.high - estimate.value) / by_edgeworth
        for start in range(0, resamples, chunk):
            shape = (min(chunk, resamples - start), count)
            mean, error, _ = self._resample(generator, shape, smoothing)
            fresh, fresh_error, skewness = self._resample(generator, shape, smoothing)
            if whole_interval:
                quantile = _edgeworth_quantile(skewness, count)
                fresh = fresh + relative_width * quantile * fresh_error
            valid = error > 0
            yield (fresh[valid] - mean[valid]) / error[valid]

    def _resample(
        self, generator: np.random.Generator, shape: tuple[int, int], smoothing: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        index = generator.integers(0, shape[1], shape)
        factors = np.exp(smoothing * generator.standard_normal(shape))
        return _moments(self.deviations[index] * factors, self.sizes[index])


def _moments(values: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean, its standard error and the skewness of the documents of each sample.

    Args:
        values, sizes: ``(samples, documents)``; means are weighted by ``sizes``.

    Returns:
        Three arrays ``(samples,)``.
    """
    documents, count = values.shape[1], sizes.sum(1)
    means = (values * sizes).sum(1) / count
    residuals = sizes * (values - means[:, None])
    squares = np.square(residuals).mean(1)
    errors = np.sqrt(squares * documents**2 / (documents - 1)) / count
    cubes = (residuals**3).mean(1)
    skewness = np.divide(cubes, squares**1.5, out=np.zeros_like(cubes), where=squares > 0)
    return means, errors, skewness


def _edgeworth_quantile(skewness: np.ndarray, documents: int) -> np.ndarray:
    """Return the distance, in standard errors, from a mean to the upper end of its studentized
    interval by the Edgeworth expansion (Hall 1992, section 3.4)."""
    from scipy.stats import t

    z = float(t.ppf(0.5 + CONFIDENCE_LEVEL / 2, documents - 1))
    return np.maximum(z + skewness * (2 * z * z + 1) / (6 * math.sqrt(documents)), 0.5 * z)
