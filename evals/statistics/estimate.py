"""A number with its interval at any confidence, and the p-value of a limit. Pure."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

CONFIDENCE = 0.95

Bounds = Callable[[float], tuple[float, float]]
"""The two-sided interval at a confidence."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the point estimate.
        low, high: two-sided interval at ``confidence``.
        n: items that it rests on.
        clusters: documents that they come from.
        bounds: the interval at any confidence; None where nothing was sampled.
        unreliable: why the interval may cover less than it says, so that nothing is proven by it;
            empty where it can be relied on.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int
    confidence: float = CONFIDENCE
    bounds: Bounds | None = field(default=None, compare=False, repr=False)
    unreliable: str = ""

    def map(self, function: Callable[[float], float]) -> "Estimate":
        """The estimate of an increasing function of the quantity."""
        inner = self.bounds
        return replace(
            self,
            value=function(self.value),
            low=function(self.low),
            high=function(self.high),
            bounds=inner and (lambda confidence: tuple(map(function, inner(confidence)))),
        )

    def __neg__(self) -> "Estimate":
        inner = self.bounds
        return replace(
            self,
            value=-self.value,
            low=-self.high,
            high=-self.low,
            bounds=inner and (lambda confidence: tuple(-end for end in inner(confidence)[::-1])),
        )

    def p_above(self, limit: float) -> float:
        """One-sided p-value of the hypothesis that the quantity is at most ``limit``.

        The smallest level at which the interval's lower end still lies above the limit; 1 where
        the estimate itself does not, 0 where nothing was sampled, NaN where the value is.
        """
        if math.isnan(self.value):
            return math.nan
        if self.value <= limit:
            return 1.0
        if self.bounds is None:
            return 0.0

        def proven(level: float) -> bool:
            return self.bounds(1 - 2 * level)[0] > limit

        low, high = math.log(_SMALLEST), math.log(0.5)
        if proven(_SMALLEST):
            return _SMALLEST
        while high - low > 1e-3:
            middle = (low + high) / 2
            low, high = (low, middle) if proven(math.exp(middle)) else (middle, high)
        return math.exp(high)


_SMALLEST = 1e-12
"""No p-value is told smaller than this."""


def estimate(
    value: float, bounds: Bounds, n: int, clusters: int, confidence: float = CONFIDENCE
) -> Estimate:
    """An estimate whose interval is that of ``bounds``."""
    return Estimate(value, *bounds(confidence), n, clusters, confidence, bounds)


NOTHING = Estimate(math.nan, math.nan, math.nan, 0, 0)
"""Of what was not measured."""


def exact(value: float, n: int = 1) -> Estimate:
    """A number that was counted, not sampled."""
    return Estimate(value, value, value, n, n)
