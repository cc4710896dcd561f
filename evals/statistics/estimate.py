"""Point estimates with confidence intervals and p-values."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

CONFIDENCE_LEVEL = 0.95
DOCUMENTS, WINDOWS = "documents", "windows"
"""Units of sampling."""

Bounds = Callable[[float], tuple[float, float]]
"""Maps a confidence level to the ends of the two-sided interval."""


@dataclass(frozen=True)
class Estimate:
    """A point estimate with a two-sided confidence interval.

    Attributes:
        value: the point estimate.
        low, high: ends of the interval at ``confidence_level``.
        n: number of items.
        clusters: number of documents that the items come from, or of windows of one document.
        bounds: the interval at any confidence level; None if nothing was sampled.
        unreliable: why the coverage may be below the confidence level, in which case the interval
            proves nothing; empty if the interval is reliable.
        unit: what ``clusters`` counts, :data:`DOCUMENTS` or :data:`WINDOWS`.
        samples: number of samples that the quantity depends on.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int
    confidence_level: float = CONFIDENCE_LEVEL
    bounds: Bounds | None = field(default=None, compare=False, repr=False)
    unreliable: str = ""
    unit: str = DOCUMENTS
    samples: int = 1

    def map(self, function: Callable[[float], float]) -> "Estimate":
        """Return the estimate of an increasing function of the quantity."""
        inner = self.bounds
        return replace(
            self,
            value=function(self.value),
            low=function(self.low),
            high=function(self.high),
            bounds=inner and (lambda level: tuple(map(function, inner(level)))),
        )

    def __neg__(self) -> "Estimate":
        inner = self.bounds
        return replace(
            self,
            value=-self.value,
            low=-self.high,
            high=-self.low,
            bounds=inner and (lambda level: tuple(-end for end in inner(level)[::-1])),
        )

    def p_above(self, limit: float) -> float:
        """Return the one-sided p-value of the null hypothesis that the quantity is at most
        ``limit``.

        It is the smallest significance level at which the lower end of the interval exceeds the
        limit, but at least 1e-12. It is 1 if the point estimate does not exceed the limit, 0 if
        nothing was sampled and it does, and NaN if the point estimate is NaN.
        """
        if math.isnan(self.value):
            return math.nan
        if self.value <= limit:
            return 1.0
        if self.bounds is None:
            return 0.0

        def is_rejected(level: float) -> bool:
            return self.bounds(1 - 2 * level)[0] > limit

        low, high = math.log(_SMALLEST_P), math.log(0.5)
        if is_rejected(_SMALLEST_P):
            return _SMALLEST_P
        while high - low > 1e-3:
            middle = (low + high) / 2
            low, high = (low, middle) if is_rejected(math.exp(middle)) else (middle, high)
        return math.exp(high)


_SMALLEST_P = 1e-12


def estimate(
    value: float, bounds: Bounds, n: int, clusters: int, confidence_level: float = CONFIDENCE_LEVEL
) -> Estimate:
    """Return an estimate whose interval is computed by ``bounds``."""
    return Estimate(value, *bounds(confidence_level), n, clusters, confidence_level, bounds)


NO_ESTIMATE = Estimate(math.nan, math.nan, math.nan, 0, 0)
"""The estimate of a quantity that was not measured."""


def exact(value: float, n: int = 1) -> Estimate:
    """Return the estimate of a number that was counted, not sampled."""
    return Estimate(value, value, value, n, n)
