"""Sequential measurement of a ratio: pairs are added until its interval excludes a limit.

The data are tested after fixed numbers of pairs, :data:`LOOKS`. At each of the ``K`` looks, the
interval of the median is bounded by order statistics, which is exact for any continuous
distribution (David and Nagaraja 2003, *Order Statistics*, section 7.1), at the confidence level
``1 - alpha / K``. By Bonferroni's inequality the intervals of all looks together contain the median
with a probability of at least ``1 - alpha``. The interval and its p-values are therefore valid at
whichever look the measurement stops.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.statistics.estimate import CONFIDENCE_LEVEL, Estimate, estimate

LOOKS = (8, 15, 30, 60, 120, 240)
"""Numbers of pairs after which the data are tested. Eight is the smallest number from which the
median has a bounded interval at the level of one of the six looks."""
FAILURE_P = 1e-6
"""A median below a limit is measured until its p-value is at most this, so that a failure remains
significant if thousands of gates are judged together."""


def sequential_median(
    values: ArrayLike, looks: int = len(LOOKS), confidence_level: float = CONFIDENCE_LEVEL
) -> Estimate:
    """Return the median, with an interval that is valid at any of several looks at the data.

    For ``n`` values the interval extends from the k-th smallest to the k-th largest, with the
    largest ``k`` for which ``2 P(Binomial(n, 1/2) < k) < (1 - confidence_level) / looks``. It is
    unbounded if there is no such ``k``.

    Args:
        values: ``(n,)``, all values so far.
        looks: total number of looks at the data, past and future.
        confidence_level: of the interval over all looks.

    Raises:
        ValueError: there are no values.
    """
    from scipy.stats import binom

    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = ordered.size
    if not n:
        raise ValueError("an empty sample has no median")

    def bounds(level: float) -> tuple[float, float]:
        k = int(binom.ppf((1 - level) / looks / 2, n, 0.5))
        return (float(ordered[k - 1]), float(ordered[n - k])) if k > 0 else (-math.inf, math.inf)

    return estimate(float(np.median(ordered)), bounds, n, n, confidence_level)


def median_ratio(pairs: np.ndarray, looks: int = len(LOOKS)) -> Estimate:
    """Return the median ratio of the first to the second number of ``pairs`` ``(n, 2)``."""
    pairs = np.asarray(pairs, dtype=np.float64)
    return sequential_median(pairs[:, 0] / pairs[:, 1], looks)


def is_proven(ratio: Estimate, limit: float) -> bool:
    """Return whether a ratio is proven to reach a limit."""
    return ratio.low >= limit


def is_refuted(ratio: Estimate, limit: float) -> bool:
    """Return whether a ratio is proven to be below a limit, with a p-value of at most
    :data:`FAILURE_P`."""
    return (-ratio).p_above(-limit) <= FAILURE_P


def is_settled(pairs: np.ndarray, limits: Iterable[float], failed: bool = False) -> bool:
    """Return whether a median ratio is proven to reach every limit.

    Args:
        pairs: ``(n, 2)``.
        limits: of the ratio of a pair's first number to its second.
        failed: whether a limit also counts as settled if the ratio is proven to be below it.
    """
    ratio = median_ratio(pairs)
    return all(is_proven(ratio, x) or (failed and is_refuted(ratio, x)) for x in limits)


def repeat_until_decided(
    measure: Callable[[int], np.ndarray],
    limits: Iterable[float],
    budget: float,
    looks: Sequence[int] = LOOKS,
    clock: Callable[[], float] = time.monotonic,
) -> np.ndarray:
    """Measure pairs until their median ratio is proven to be on one side of each limit.

    Args:
        measure: measures the given number of further pairs and returns them, ``(pairs, 2)``.
        limits: of the ratio of a pair's first number to its second; without limits, measuring stops
            at the first look.
        budget: seconds of ``clock``; a look that is expected to exceed it is not started, except
            the first.
        looks: numbers of pairs after which measuring may stop.

    Returns:
        All pairs, ``(n, 2)`` with ``n`` among ``looks``.
    """
    limits, start, pairs = list(limits), clock(), np.empty((0, 2))
    for look, following in zip(looks, (*looks[1:], math.inf), strict=True):
        pairs = np.concatenate((pairs, measure(look - len(pairs))))
        ratio = median_ratio(pairs, len(looks))
        if all(is_proven(ratio, limit) or is_refuted(ratio, limit) for limit in limits):
            break
        if (clock() - start) * following / look > budget:
            break
    return pairs
