"""Correction of the t interval of a mean for skewed, long-tailed distributions.

A sample from a skewed distribution often lacks the large values that contribute most of the mean.
The sample mean is then too small, and so is its standard error. The interval is therefore the
widest of three:

* Student's t, which suffices if the distribution is nearly symmetric.
* Hall's transformation (Hall 1992, "On the removal of skewness by transformation"), which corrects
  t for the sample's skewness A = sum r^3 / (sum r^2)^1.5::

      g(T) = T + A T^2 / 3 + A^2 T^3 / 27 + A / 6,    T_z = (3 / A) (cbrt(1 + A (z - A / 6)) - 1)

* A multiple of t if the documents have the spread of a long-tailed distribution, whether or not
  the sample contains its largest values. The constants are calibrated by
  `python -m compression_gates.fixtures.experiments.simulation`.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from compression_gates.evals.statistics.clusters import ClusterSums, t_quantile
from compression_gates.evals.statistics.estimate import Bounds

MIN_CLUSTERS = 30
"""Effective number of documents below which the interval of a mean is marked as unreliable."""
EQUAL_LENGTHS = 0.99
"""Effective number of documents, as a share of their number, from which on they count as equally
long, so that :data:`MIN_CLUSTERS` of them are enough."""
STRETCH = 4.5
"""Largest extension of the interval towards a long tail, in multiples of Student's t."""
FULL_STRETCH_SKEWNESS = 0.2
"""Value of A from which on the extension is applied in full; below, it is proportional to A."""
QUANTILE_RATIO = (0.8, 1.8)
"""log((q90 - q50) / (q50 - q10)) at which the extension begins, and at which it is full. It is 0
for a normal distribution, 1.0 for an exponential, 1.3 and 2.6 for a lognormal with sigma 1 and 2,
and 1.8 for a Pareto distribution with index 1.5."""
SAMPLE_SKEWNESS = (2.0, 5.0)
"""Sample skewness at which the extension begins, and at which it is full. An exponential
distribution has 2."""
MAX_GAP, MAX_LARGEST_GAP = 3.0, 5.5
"""Largest log((q95 - q75) / (q75 - q50)), and the same with the largest value in place of q95, at
which the tail is continuous; above, a few documents lie far from all others. The first is 0.3 for a
normal distribution and 2 for a lognormal with sigma 2, but 7 for the divergence of a quantized
classifier, which is large only for inputs on which the classifier is uncertain."""
MIN_CLUSTERS_WITH_GAP = 150
"""Effective number of documents from which on the interval of such values is reliable."""


def hall(skewness: float, z: float) -> float:
    """Return the quantile of a studentized mean for which Hall's transformation is ``z``."""
    if abs(skewness) < 1e-6:
        return z
    return 3 / skewness * (float(np.cbrt(1 + skewness * (z - skewness / 6))) - 1)


@dataclass(frozen=True)
class Tail:
    """Shape of the longer tail of the deviations of documents from the mean.

    Attributes:
        skewness: ``A``, the sample skewness divided by the square root of the number of documents.
        stretch: extension of the interval towards this tail, in multiples of Student's t.
        gap: whether a few documents lie far from all others.
    """

    skewness: float
    stretch: float
    gap: bool

    @classmethod
    def of(cls, sums: ClusterSums) -> "Tail":
        """Return the tail of documents; their standard error must be positive."""
        skewness, size = sums.skewness, abs(sums.skewness)
        deviations = np.copysign(1.0, skewness) * sums.residuals
        q10, q50, q75, q90, q95, top = np.quantile(deviations, (0.1, 0.5, 0.75, 0.9, 0.95, 1.0))
        by_quantiles = _ramp(_log_ratio(q90 - q50, q50 - q10), *QUANTILE_RATIO)
        by_skewness = _ramp(size * math.sqrt(sums.effective_clusters), *SAMPLE_SKEWNESS)
        stretch = STRETCH * max(by_quantiles, by_skewness) * min(size / FULL_STRETCH_SKEWNESS, 1.0)
        has_gap = (
            _log_ratio(q95 - q75, q75 - q50) > MAX_GAP
            or _log_ratio(top - q75, q75 - q50) > MAX_LARGEST_GAP
        )
        return cls(skewness, stretch, size > FULL_STRETCH_SKEWNESS and has_gap)

    def without_stretch(self) -> "Tail":
        """Return the tail with Hall's correction alone, for bounded values."""
        return replace(self, stretch=0.0)

    def half_widths(self, t: float) -> tuple[float, float]:
        """Return the lengths of the interval below and above the mean in standard errors; both are
        ``t`` for a symmetric distribution."""
        size = abs(self.skewness)
        towards = max(t * (1 + self.stretch), -hall(size, -t))
        away = max(t, hall(size, t))
        # A sample that lacks the largest values of a tail has a mean that is too far from the tail.
        return (away, towards) if self.skewness > 0 else (towards, away)


def tail_interval(sums: ClusterSums, tail: Tail) -> Bounds:
    """Return the interval of a mean with a tail, as a function of the confidence level."""

    def bounds(level: float) -> tuple[float, float]:
        below, above = tail.half_widths(t_quantile(level, sums.degrees_of_freedom))
        return sums.mean - below * sums.standard_error, sums.mean + above * sums.standard_error

    return bounds


def unreliable_reason(sums: ClusterSums, tail: Tail | None = None, unit: str = "documents") -> str:
    """Return why the interval of a mean may have too little coverage; empty if it is reliable.

    Args:
        sums: by document.
        tail: of the documents' deviations; None if they do not deviate.
        unit: what the clusters are called in the message.
    """
    if sums.effective_clusters < EQUAL_LENGTHS * MIN_CLUSTERS:
        return _too_few(sums, unit)
    if tail is not None and tail.gap and sums.effective_clusters < MIN_CLUSTERS_WITH_GAP:
        return (
            f"{_largest_clusters(np.abs(sums.totals), unit)} of the total, and intervals of such "
            f"values are unreliable below {MIN_CLUSTERS_WITH_GAP} {unit}"
        )
    return ""


def _too_few(sums: ClusterSums, unit: str) -> str:
    count, effective = sums.cluster_count, sums.effective_clusters
    if effective >= EQUAL_LENGTHS * count:
        return f"intervals are unreliable below {MIN_CLUSTERS} {unit} (got {count})"
    if effective > 0.5 * count:
        return (
            f"intervals are unreliable below {MIN_CLUSTERS} {unit} (got {count} of unequal length, "
            f"an effective {effective:.1f})"
        )
    return (
        f"{_largest_clusters(sums.sizes, unit)} of the items: an effective {effective:.1f} {unit}, "
        f"and intervals are unreliable below {MIN_CLUSTERS}"
    )


def _largest_clusters(parts: np.ndarray, unit: str) -> str:
    """Describe the smallest number of clusters whose parts exceed half of the sum."""
    held = np.cumsum(np.sort(parts)[::-1]) / parts.sum()
    number = min(int(np.searchsorted(held, 0.5, side="right")), len(parts) - 1)
    verb = "holds" if number == 0 else "hold"
    return f"{number + 1} of {len(parts)} {unit} {verb} {held[number]:.0%}"


def _log_ratio(upper: float, lower: float) -> float:
    """Return log(upper / lower), which is infinite if ``lower`` is 0."""
    if not lower > 0:
        return math.inf
    return math.log(upper / lower) if upper > 0 else -math.inf


def _ramp(value: float, start: float, end: float) -> float:
    """Return 0 up to ``start``, 1 from ``end`` on, and a linear interpolation in between."""
    return min(max((value - start) / (end - start), 0.0), 1.0)
