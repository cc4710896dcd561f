"""How far the interval of a mean must reach into a long tail, and when it cannot be relied on.

Of a skewed distribution the sample often holds none of the large values that make up much of the
mean. The estimate is then too small and so is its standard error. Three remedies, each wider than
the one before:

* Student's t, where the distribution is about symmetric.
* Hall's transformation (Hall 1992, "On the removal of skewness by transformation"), which corrects
  t for the sample's skewness A = sum r^3 / (sum r^2)^1.5::

      g(T) = T + A T^2 / 3 + A^2 T^3 / 27 + A / 6,    T_z = (3 / A) (cbrt(1 + A (z - A / 6)) - 1)

* A multiple of t where documents are spread as in a long tail, whether or not this sample holds
  its largest values. Its constants are calibrated by
  `python -m compression_gates.fixtures.experiments.simulation`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from compression_gates.evals.statistics.clusters import ClusterSums, student_t

FEW = 30
"""Below so many effective documents the interval of a mean may cover less than it says."""
STRETCH = 4.5
"""What is added to Student's t, in multiples of it, where the tail is long."""
SKEWED = 0.2
"""A, from which on the interval is stretched in full; in proportion below."""
BODY = (0.8, 1.8)
"""log((q90 - q50) / (q50 - q10)): of no stretch, and of all. 0 for a normal distribution, 1.0 for
an exponential, 1.3 and 2.6 for a lognormal with sigma 1 and 2, 1.8 for a Pareto with index 1.5."""
SKEWNESS = (2.0, 5.0)
"""Sample skewness: of no stretch, and of all. 2 for an exponential distribution."""
GAP, LARGEST_GAP = 3.0, 5.5
"""log((q95 - q75) / (q75 - q50)), and the same with the largest value in place of q95. Above either
a few documents lie far from all others. The first is 0.3 for a normal distribution and 2 for a
lognormal with sigma 2, but 7 for the divergence of a quantized classifier, which is large only for
inputs that the classifier is unsure of."""
ENOUGH = 150
"""Effective documents, from which on such values have an interval that can be relied on."""


def hall(skewness: float, z: float) -> float:
    """The quantile of a studentized mean at which Hall's transformation is ``z``."""
    if abs(skewness) < 1e-6:
        return z
    return 3 / skewness * (float(np.cbrt(1 + skewness * (z - skewness / 6))) - 1)


@dataclass(frozen=True)
class Tail:
    """The longer tail of the deviations of documents.

    Attributes:
        skewness: ``A``, the sample skewness over the square root of the number of documents.
        stretch: what is added to Student's t towards this tail, in multiples of it.
        gap: whether a few documents lie far from the others.
    """

    skewness: float
    stretch: float
    gap: bool

    @classmethod
    def of(cls, sums: ClusterSums) -> "Tail":
        """The tail of documents whose standard error is not 0."""
        squares = float(np.square(sums.residuals).sum())
        skewness = float((sums.residuals**3).sum()) / squares**1.5
        size = abs(skewness)
        deviations = np.copysign(1.0, skewness) * sums.residuals
        q10, q50, q75, q90, q95, top = np.quantile(deviations, (0.1, 0.5, 0.75, 0.9, 0.95, 1.0))
        body = _log_ratio(q90 - q50, q50 - q10)
        long = max(_ramp(body, *BODY), _ramp(size * math.sqrt(sums.effective), *SKEWNESS))
        far = (
            _log_ratio(q95 - q75, q75 - q50) > GAP or _log_ratio(top - q75, q75 - q50) > LARGEST_GAP
        )
        return cls(skewness, STRETCH * long * min(size / SKEWED, 1.0), size > SKEWED and far)

    def without_stretch(self) -> "Tail":
        """Hall's correction alone, for values that are bounded."""
        return replace(self, stretch=0.0)

    def reach(self, t: float) -> tuple[float, float]:
        """How many standard errors the interval extends below and above the mean, where Student's
        would extend ``t`` both ways."""
        size = abs(self.skewness)
        towards = max(t * (1 + self.stretch), -hall(size, -t))
        away = max(t, hall(size, t))
        # The truth lies towards the long tail where the sample misses its largest values.
        return (away, towards) if self.skewness > 0 else (towards, away)


def reach_of(sums: ClusterSums, tail: Tail) -> Callable[[float], tuple[float, float]]:
    """The interval of a mean at any confidence."""

    def bounds(level: float) -> tuple[float, float]:
        below, above = tail.reach(student_t(level, sums.degrees))
        return sums.mean - below * sums.error, sums.mean + above * sums.error

    return bounds


def unreliable(sums: ClusterSums, tail: Tail | None = None, unit: str = "documents") -> str:
    """Why the interval of a mean may cover less than it says; empty where it does not.

    Args:
        sums: by document.
        tail: of their deviations; None where there are none.
        unit: what the clusters are called.
    """
    if sums.effective < FEW - 1e-9:
        return _few(sums, unit)
    if tail is not None and tail.gap and sums.effective < ENOUGH:
        return (
            f"{_holders(np.abs(sums.totals), unit)} of the total, and intervals of such values are "
            f"unreliable below {ENOUGH} {unit}"
        )
    return ""


def _few(sums: ClusterSums, unit: str) -> str:
    if sums.effective > 0.99 * sums.groups:
        return f"intervals are unreliable below {FEW} {unit} (got {sums.groups})"
    if sums.effective > 0.5 * sums.groups:
        return (
            f"intervals are unreliable below {FEW} {unit} (got {sums.groups} of unequal length, "
            f"an effective {sums.effective:.1f})"
        )
    return (
        f"{_holders(sums.sizes, unit)} of the items: an effective {sums.effective:.1f} {unit}, "
        f"and intervals are unreliable below {FEW}"
    )


def _holders(parts: np.ndarray, unit: str) -> str:
    """The smallest number of parts that hold more than half of their sum, and what they hold."""
    held = np.cumsum(np.sort(parts)[::-1]) / parts.sum()
    number = min(int(np.searchsorted(held, 0.5, side="right")), len(parts) - 1)
    verb = "holds" if number == 0 else "hold"
    return f"{number + 1} of {len(parts)} {unit} {verb} {held[number]:.0%}"


def _log_ratio(upper: float, lower: float) -> float:
    """log(upper / lower); infinite where most values are the same."""
    if not lower > 0:
        return math.inf
    return math.log(upper / lower) if upper > 0 else -math.inf


def _ramp(value: float, none: float, all_: float) -> float:
    """0 up to ``none``, 1 from ``all_`` on, linear between."""
    return min(max((value - none) / (all_ - none), 0.0), 1.0)
