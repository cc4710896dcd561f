"""Sums of values by cluster, and the cluster-robust standard error of their mean."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.statistics.estimate import Bounds, Estimate, estimate


@dataclass(frozen=True)
class ClusterSums:
    """Sum and number of the values in each cluster.

    Standard error and degrees of freedom are those of the bias-reduced estimator "CR2" of Bell and
    McCaffrey (2002) for a regression on a constant, with independent items as the working model.
    With ``h_g = n_g / N``, the share of the items in cluster g::

        r_g = (s_g - n_g mean) / sqrt(1 - h_g)
        standard_error^2 = sum_g r_g^2 / N^2
        degrees_of_freedom = 1 / (sum_g h_g^2 + sum_{g != k} b_g b_k),    b_g = h_g^2 / (1 - h_g)

    For G clusters of equal size this gives the t interval over cluster means, with G - 1 degrees.

    Attributes:
        totals: ``(clusters,)``, the sum of the values of each cluster.
        sizes: ``(clusters,)``, the number of values of each cluster.
    """

    totals: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, values: ArrayLike, clusters: ArrayLike) -> "ClusterSums":
        """Sum ``values`` ``(n,)`` by ``clusters`` ``(n,)``, in sorted order of the cluster names.

        Raises:
            ValueError: there are no values, or the shapes differ.
        """
        values, clusters = np.asarray(values, dtype=np.float64), np.asarray(clusters)
        if values.shape != clusters.shape or values.ndim != 1:
            raise ValueError(f"values {values.shape} and clusters {clusters.shape} do not match")
        if not values.size:
            raise ValueError("an empty sample has no mean")
        _, index = np.unique(clusters, return_inverse=True)
        return cls(np.bincount(index, values), np.bincount(index).astype(float))

    @property
    def cluster_count(self) -> int:
        return len(self.sizes)

    @cached_property
    def item_count(self) -> int:
        return int(self.sizes.sum())

    @cached_property
    def mean(self) -> float:
        return float(self.totals.sum() / self.sizes.sum())

    @cached_property
    def shares(self) -> np.ndarray:
        """``(clusters,)``, the share of the items in each cluster, ``h_g``."""
        return self.sizes / self.sizes.sum()

    @cached_property
    def effective_clusters(self) -> float:
        """Effective number of clusters (Kish), ``(sum n_g)^2 / sum n_g^2``."""
        return float(1 / np.square(self.shares).sum())

    @cached_property
    def residuals(self) -> np.ndarray:
        """``(clusters,)``, the adjusted sums of the deviations from the mean, ``r_g``."""
        with np.errstate(invalid="ignore"):  # inf - inf is NaN
            return (self.totals - self.sizes * self.mean) / np.sqrt(1 - self.shares)

    @cached_property
    def standard_error(self) -> float:
        """Standard error of the mean."""
        return float(np.sqrt(np.square(self.residuals).sum()) / self.item_count)

    @cached_property
    def degrees_of_freedom(self) -> float:
        """Degrees of freedom of :attr:`standard_error`."""
        squares = np.square(self.shares)
        b = squares / (1 - self.shares)
        return float(1 / (squares.sum() + b.sum() ** 2 - np.square(b).sum()))

    @cached_property
    def skewness(self) -> float:
        """Skewness of the mean: that of the clusters by the square root of their number."""
        squares = float(np.square(self.residuals).sum())
        return float((self.residuals**3).sum()) / squares**1.5

    @property
    def has_no_interval(self) -> bool:
        """Whether there is only one cluster, or the mean is NaN."""
        return self.cluster_count == 1 or math.isnan(self.mean)

    def estimate_without_interval(self, confidence_level: float) -> Estimate:
        """Return the mean with an unbounded interval, or with a NaN interval if it is NaN."""
        ends = (math.nan, math.nan) if math.isnan(self.mean) else (-math.inf, math.inf)
        return self.estimate(lambda level: ends, confidence_level)

    def estimate(self, bounds: Bounds, confidence_level: float) -> Estimate:
        """Return the mean with the interval that ``bounds`` computes."""
        return estimate(self.mean, bounds, self.item_count, self.cluster_count, confidence_level)


def effective_number(values: np.ndarray) -> float:
    """Return the effective number of non-negative ``values`` ``(n,)``, ``(sum v)^2 / sum v^2``.

    It is n if all are equal, 1 if all but one are zero, and 0 if all are zero.
    """
    squares = float(np.square(values).sum())
    return float(values.sum() ** 2 / squares) if squares > 0 else 0.0


def t_quantile(confidence_level: float, degrees_of_freedom: float) -> float:
    """Return the quantile of Student's t distribution that bounds a two-sided interval."""
    from scipy.special import stdtrit

    return -float(stdtrit(degrees_of_freedom, (1 - confidence_level) / 2))
