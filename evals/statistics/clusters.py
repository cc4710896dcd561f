"""Sums of values by cluster, and the standard error of their mean."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.statistics.estimate import Estimate, estimate


@dataclass(frozen=True)
class ClusterSums:
    """Values and their number by cluster.

    The standard error and the degrees of freedom are those of Bell and McCaffrey (2002, "CR2")
    for the mean, which is a regression on a constant, with independent items as the working model.
    With ``h_g = n_g / N``, the share of the items that cluster g holds::

        r_g = (s_g - n_g mean) / sqrt(1 - h_g)
        error^2 = sum_g r_g^2 / N^2
        degrees = 1 / (sum_g h_g^2 + sum_{g != k} b_g b_k),    b_g = h_g^2 / (1 - h_g)

    With G clusters of one size these are the t interval over cluster means, G - 1 degrees.

    Attributes:
        totals: ``(clusters,)`` sum of the values of each.
        sizes: ``(clusters,)`` number of the values of each.
    """

    totals: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, values: ArrayLike, clusters: ArrayLike) -> "ClusterSums":
        """The sums of ``values`` ``(n,)`` in ``clusters`` ``(n,)``, in the order of their names.

        Raises:
            ValueError: no value, or lengths that differ.
        """
        values, clusters = np.asarray(values, dtype=np.float64), np.asarray(clusters)
        if values.shape != clusters.shape or values.ndim != 1:
            raise ValueError(f"values {values.shape} and clusters {clusters.shape} do not match")
        if not values.size:
            raise ValueError("an empty sample has no mean")
        _, index = np.unique(clusters, return_inverse=True)
        return cls(np.bincount(index, values), np.bincount(index).astype(float))

    @property
    def groups(self) -> int:
        return len(self.sizes)

    @cached_property
    def count(self) -> int:
        return int(self.sizes.sum())

    @cached_property
    def mean(self) -> float:
        return float(self.totals.sum() / self.sizes.sum())

    @cached_property
    def shares(self) -> np.ndarray:
        """``(clusters,)`` share of the items that each holds."""
        return self.sizes / self.sizes.sum()

    @cached_property
    def effective(self) -> float:
        """Number of clusters of one size that these are worth, ``(sum n_g)^2 / sum n_g^2``."""
        return float(1 / np.square(self.shares).sum())

    @cached_property
    def residuals(self) -> np.ndarray:
        """``(clusters,)`` adjusted sums of the deviations from the mean, ``r_g``."""
        with np.errstate(invalid="ignore"):  # an infinite value has no deviation
            return (self.totals - self.sizes * self.mean) / np.sqrt(1 - self.shares)

    @cached_property
    def error(self) -> float:
        """Standard error of the mean."""
        return float(np.sqrt(np.square(self.residuals).sum()) / self.count)

    @cached_property
    def degrees(self) -> float:
        """Degrees of freedom of :attr:`error`."""
        squares = np.square(self.shares)
        b = squares / (1 - self.shares)
        return float(1 / (squares.sum() + b.sum() ** 2 - np.square(b).sum()))

    def estimate_without_interval(self, confidence: float) -> Estimate:
        """Of a single cluster, which says nothing of others; or of values that are NaN."""
        ends = (math.nan, math.nan) if math.isnan(self.mean) else (-math.inf, math.inf)
        return estimate(self.mean, lambda level: ends, self.count, self.groups, confidence)


def carriers(totals: np.ndarray) -> float:
    """Number of equal totals that non-negative ``totals`` ``(n,)`` are worth,
    ``(sum s)^2 / sum s^2``; 0 where all are zero."""
    squares = float(np.square(totals).sum())
    return float(totals.sum() ** 2 / squares) if squares > 0 else 0.0


def student_t(confidence: float, degrees: float) -> float:
    """Quantile of Student's t that bounds a two-sided interval."""
    from scipy.special import stdtrit

    return -float(stdtrit(degrees, (1 - confidence) / 2))
