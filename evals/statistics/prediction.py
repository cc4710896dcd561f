"""Limits that hold on a fresh draw of as many items: prediction, not confidence.

A confidence interval holds the true value. A fresh draw deviates from the true value as much as the
draw at hand does, so that the variance of their difference is twice as large. A limit at the far
end of a 95 % interval is broken by 6 to 10 % of fresh draws.
"""

import math
from collections.abc import Iterator

import numpy as np

from compression_gates.evals.statistics.estimate import CONFIDENCE, Estimate
from compression_gates.evals.statistics.item_values import MEAN, ItemValues

RATE = 0.01
"""Fresh draws that may break a limit."""
SMALLEST_RATE, LARGEST_RATE = 1e-4, 0.5
_RESAMPLES, _TAIL = 1999, 20
"""Resamples at least, and resamples beyond the quantile that is taken."""
SMOOTHING, WHOLE_SMOOTHING = 1.0, 1.25
"""Standard deviation of the logarithm of what the deviations of resampled documents are multiplied
by, for the estimate of a fresh draw and for its whole interval. The heaviest documents of a small
sample are mostly not in it: without smoothing, limits from 30 lognormal documents are broken by
three times as many estimates of fresh draws as named, and by ten times as many intervals. The
values are about the smallest that hold for lognormal documents
(`python -m compression_gates.fixtures.experiments.planning_simulation`). Samples whose tails are
lighter are stretched less."""
ENTRIES = 1 << 22
"""Documents that are drawn at a time."""
MANY = 5000
"""Documents, from which on their mean is about normal."""
_SEED = 20140501


def fresh_upper(
    estimate: Estimate,
    items: ItemValues | None,
    rate: float = RATE,
    whole: bool = False,
    seed: int = _SEED,
) -> float:
    """An upper limit that a fresh draw of as many documents breaks in about ``rate`` of the runs.

    For means (values of kind :data:`evals.statistics.item_values.MEAN`), two draws A and B of
    documents are resampled, and the quantile at ``1 - rate`` of ``(mean_B - mean_A) / error_A``
    takes the place of ``sqrt(2) z`` (a studentized bootstrap prediction interval; Efron &
    Tibshirani 1993, section 12.5, for the studentizing by the error of the draw that is at hand).
    Otherwise the limit is the
    upper end of the interval at the confidence whose normal quantile is ``sqrt(2) z``: for shares,
    Wilson's interval leans as the prediction must.

    Args:
        estimate: of the draw at hand; for means on the scale of ``items``.
        items: its values, if there are any.
        rate: how many fresh draws may break the limit.
        whole: whether the whole interval of the fresh draw must keep it, and not only its estimate.
        seed: of the resamples.

    Returns:
        The limit; infinite where the interval has no end at such a confidence.
    """
    from scipy.stats import norm

    if estimate.bounds is None:
        return estimate.value
    documents = estimate.clusters
    if items is None or items.kind != MEAN or not 1 < documents <= MANY:
        beyond = math.sqrt(2) * norm.isf(rate)
        beyond += norm.isf((1 - CONFIDENCE) / 2) if whole else 0.0
        return estimate.bounds(1 - 2 * float(norm.sf(beyond)))[1]
    sample = _Sample(items)
    if not sample.error > 0:
        return estimate.high if whole else estimate.value
    ratios = np.concatenate(list(sample.ratios(estimate, rate, whole, seed)))
    return estimate.value + sample.error * float(np.quantile(ratios, 1 - rate))


class _Sample:
    """Documents that are resampled, their deviations from the median stretched at random."""

    def __init__(self, items: ItemValues):
        self.sizes = items.sizes.astype(np.float64)
        self.middle = float(np.median(items.values))
        self.deviations = items.values.astype(np.float64) - self.middle
        means, errors, self.skewness = _moments(self.deviations[None], self.sizes[None])
        self.error = float(errors[0])
        residuals = self.sizes * (self.deviations - means)
        excess = 0.0
        if self.error > 0:
            excess = float(np.mean(residuals**4) / np.mean(residuals**2) ** 2 - 3)
        # 0 of normal documents, 1 of those that are as skewed as exponential ones mostly are.
        self.heaviness = min(max(abs(float(self.skewness[0])), excess / 2, 0.0), 1.0)

    def ratios(
        self, estimate: Estimate, rate: float, whole: bool, seed: int
    ) -> Iterator[np.ndarray]:
        """``(mean_B - mean_A) / error_A``, or with the upper end of B's interval for its mean, in
        parts that fit into memory."""
        generator = np.random.default_rng(seed)
        smoothing = self.heaviness * (WHOLE_SMOOTHING if whole else SMOOTHING)
        count = len(self.sizes)
        resamples = max(_RESAMPLES, math.ceil(_TAIL / rate))
        per_part = max(ENTRIES // count, 1)
        # How much wider the interval is than Edgeworth's expansion has it for such documents.
        usual = (estimate.high - estimate.value) / (self.error * _far(self.skewness, count)[0])
        for start in range(0, resamples, per_part):
            shape = (min(per_part, resamples - start), count)
            mean, error, _ = self._draw(generator, shape, smoothing)
            fresh, fresh_error, skewness = self._draw(generator, shape, smoothing)
            if whole:
                fresh = fresh + usual * _far(skewness, count) * fresh_error
            known = error > 0
            yield (fresh[known] - mean[known]) / error[known]

    def _draw(self, generator: np.random.Generator, shape: tuple[int, int], smoothing: float):
        drawn = generator.integers(0, shape[1], shape)
        stretched = self.deviations[drawn] * np.exp(smoothing * generator.standard_normal(shape))
        return _moments(stretched, self.sizes[drawn])


def _moments(values: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means ``(samples,)`` weighted by ``sizes``, their standard errors, and the skewness of the
    documents, of ``(samples, documents)``."""
    groups, count = values.shape[1], sizes.sum(1)
    means = (values * sizes).sum(1) / count
    residuals = sizes * (values - means[:, None])
    squares = np.square(residuals).mean(1)
    errors = np.sqrt(squares * groups**2 / (groups - 1)) / count
    cubes = (residuals**3).mean(1)
    skewness = np.divide(cubes, squares**1.5, out=np.zeros_like(cubes), where=squares > 0)
    return means, errors, skewness


def _far(skewness: np.ndarray, documents: int) -> np.ndarray:
    """Standard errors from a mean to the upper end of its studentized interval, by Edgeworth's
    expansion (Hall 1992, section 3.4)."""
    from scipy.stats import t

    z = float(t.ppf(0.5 + CONFIDENCE / 2, documents - 1))
    return np.maximum(z + skewness * (2 * z * z + 1) / (6 * math.sqrt(documents)), 0.5 * z)
