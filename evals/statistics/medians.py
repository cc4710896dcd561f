"""The interval of a median."""

import math

import numpy as np
from numpy.typing import ArrayLike

from evals.estimate import CONFIDENCE, Estimate, estimate


def median_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
    """Median with a distribution-free interval from order statistics (binomial, exact).

    The interval runs from the k-th smallest to the k-th largest value, with the largest k whose
    coverage ``1 - 2 P(Binomial(n, 1/2) < k)`` reaches the confidence; unbounded where none does.
    Coverage goes in steps, so for small n it is more than it says: 96.5 % for 15 values. Nor is a
    p-value of 15 values ever below 3e-5.
    """
    from scipy.stats import binom

    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = ordered.size
    if not n:
        raise ValueError("an empty sample has no median")

    def bounds(level: float) -> tuple[float, float]:
        k = int(binom.ppf((1 - level) / 2, n, 0.5))
        return (float(ordered[k - 1]), float(ordered[n - k])) if k > 0 else (-math.inf, math.inf)

    return estimate(float(np.median(ordered)), bounds, n, n, confidence)
