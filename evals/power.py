"""What a number of items can tell, before a candidate is run.

The smallest drift that a gate resolves is the one that its interval tells from none at its
confidence, four times in five::

    resolved = (t_{1 - alpha / 2} + t_{power}) * error

so a candidate that has not changed proves, at that power, that it is below a margin of that size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evals.estimate import Estimate

POWER = 0.8
MOST = 1_000_000
"""Items that are asked for at most."""


@dataclass(frozen=True)
class Resolution:
    """What a gate's items can tell.

    Attributes:
        margin: what the gate allows.
        resolved: the smallest drift that they tell from none; infinite where nothing is told.
        items: how many there are, and
        needed: about how many it takes for ``margin``, documents growing with them; -1 where no
            number of them does.
        known: whether the spread is that of a stored pair, or assumed from the baseline alone.
    """

    margin: float
    resolved: float
    items: int
    needed: int
    known: bool

    @property
    def enough(self) -> bool:
        return self.resolved <= self.margin


def resolution(
    estimate: Estimate, margin: float, known: bool, again: Callable[[int], Estimate] | None = None
) -> Resolution:
    """What the items behind an estimate resolve.

    Args:
        estimate: of a drift, paired, on these items.
        margin: what the gate allows.
        known: whether it is of a measured pair.
        again: the estimate of so many items of the same kind; without it, intervals are taken to
            shrink with the square root of their number, which is too slow where few items differ.
    """
    resolved, n = spread(estimate), estimate.n
    if not math.isfinite(resolved):
        return Resolution(margin, math.inf, n, -1, known)
    if resolved <= margin:
        return Resolution(margin, resolved, n, n, known)
    if not margin > 0:
        return Resolution(margin, resolved, n, -1, known)
    needed = math.ceil(n * (resolved / margin) ** 2)
    if again is not None:
        low, high = n, min(needed, MOST)
        while high - low > max(low // 100, 1):
            middle = (low + high) // 2
            low, high = (low, middle) if spread(again(middle)) <= margin else (middle, high)
        needed = high
    return Resolution(margin, resolved, n, needed, known)


def spread(estimate: Estimate, power: float = POWER) -> float:
    """The smallest drift that an interval as wide as this one's upper side tells from none."""
    upper = estimate.high - estimate.value
    beyond = estimate.bounds(2 * power - 1)[1] - estimate.value
    return upper + beyond


def assumed_changes(margin: float, items: int, wrong: int, seed: int = 0) -> np.ndarray:
    """``(items,)`` changes of right and wrong answers as of a candidate at the margin: three lost
    for every one gained, as far as there are answers to gain and to lose, in random places.

    Args:
        margin: the share that more answers are lost than gained.
        items: how many answers.
        wrong: how many of them the baseline has wrong.
        seed: of the places.
    """
    fall = round(margin * items)
    gained = min(round(0.5 * fall), wrong, (items - fall) // 2)
    values = np.zeros(items)
    values[: fall + gained], values[fall + gained : fall + 2 * gained] = 1.0, -1.0
    return np.random.default_rng(seed).permutation(values)


def assumed_drift(difficulty: ArrayLike, margin: float) -> np.ndarray:
    """``(items,)`` drifts with mean ``margin``, in proportion to how hard each item is to the
    baseline: where it is sure, compression changes little. NaN where it finds nothing hard, which
    says nothing."""
    difficulty = np.asarray(difficulty, dtype=np.float64)
    mean = difficulty.mean()
    return difficulty * (margin / mean) if mean > 0 else np.full_like(difficulty, np.nan)
