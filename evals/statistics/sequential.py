"""Sequential measurement of a ratio: pairs are added until its interval leaves a limit.

The data are looked at after fixed numbers of pairs, :data:`LOOKS`. At each of ``K`` looks the
interval of the median runs between order statistics, exactly for any continuous distribution
(David and Nagaraja 2003, *Order Statistics*, section 7.1), at the confidence ``1 - alpha / K``. By
Bonferroni's inequality it then holds the median at all looks at once with a probability of at least
``1 - alpha``, so the interval and its p-values are valid at whichever look measuring stops.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.statistics.estimate import CONFIDENCE, Estimate, estimate

LOOKS = (15, 30, 60, 120, 240)
"""Numbers of pairs after which the data are looked at."""
PROOF = 1e-6
"""A median below a limit is measured until its p-value is at most this: what fails a gate then
stands out among thousands of gates that are judged together."""


def sequential_median(
    values: ArrayLike, looks: int = len(LOOKS), confidence: float = CONFIDENCE
) -> Estimate:
    """The median, with an interval that holds at the last of several looks at the data.

    For ``n`` values it runs from the k-th smallest to the k-th largest, with the largest ``k`` for
    which ``2 P(Binomial(n, 1/2) < k) < (1 - confidence) / looks``, and is unbounded where there is
    none.

    Args:
        values: all values until now, ``(n,)``.
        looks: how often the data may be looked at in all, past and future.
        confidence: of the interval over all looks.

    Raises:
        ValueError: no value.
    """
    from scipy.stats import binom

    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = ordered.size
    if not n:
        raise ValueError("an empty sample has no median")

    def bounds(level: float) -> tuple[float, float]:
        k = int(binom.ppf((1 - level) / looks / 2, n, 0.5))
        return (float(ordered[k - 1]), float(ordered[n - k])) if k > 0 else (-math.inf, math.inf)

    return estimate(float(np.median(ordered)), bounds, n, n, confidence)


def ratio_of(pairs: np.ndarray, looks: int = len(LOOKS)) -> Estimate:
    """The median ratio of the first to the second of each of ``pairs`` ``(n, 2)``."""
    pairs = np.asarray(pairs, dtype=np.float64)
    return sequential_median(pairs[:, 0] / pairs[:, 1], looks)


def is_kept(ratio: Estimate, limit: float) -> bool:
    """Whether a ratio is proven to reach a limit."""
    return ratio.low >= limit


def is_broken(ratio: Estimate, limit: float) -> bool:
    """Whether a ratio is proven to stay below a limit, at the level :data:`PROOF`."""
    return (-ratio).p_above(-limit) <= PROOF


def is_settled(pairs: np.ndarray, limits: Iterable[float], failed: bool = False) -> bool:
    """Whether a median ratio is proven to reach every limit, or where ``failed`` is set, is proven
    to lie on one side of each."""
    ratio = ratio_of(pairs)
    return all(is_kept(ratio, x) or (failed and is_broken(ratio, x)) for x in limits)


def repeat_until_decided(
    measure: Callable[[int], np.ndarray],
    limits: Iterable[float],
    budget: float,
    looks: Sequence[int] = LOOKS,
    clock: Callable[[], float] = time.monotonic,
) -> np.ndarray:
    """Measures pairs until their median ratio is proven to lie on one side of each limit.

    Args:
        measure: measures so many more pairs and returns them, ``(pairs, 2)``.
        limits: of the ratio of a pair's first number to its second; without any, measuring stops
            at the first look.
        budget: seconds of ``clock`` that no look after the first is expected to exceed.
        looks: numbers of pairs after which it may stop.

    Returns:
        All pairs, ``(n, 2)`` with ``n`` among ``looks``.
    """
    limits, start, pairs = list(limits), clock(), np.empty((0, 2))
    for look, following in zip(looks, (*looks[1:], math.inf), strict=True):
        pairs = np.concatenate((pairs, measure(look - len(pairs))))
        ratio = ratio_of(pairs, len(looks))
        if all(is_kept(ratio, limit) or is_broken(ratio, limit) for limit in limits):
            break
        if (clock() - start) * following / look > budget:
            break
    return pairs
