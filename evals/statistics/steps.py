"""Detection of steps in a series of values: a piecewise constant fit with a penalty per step."""

import numpy as np
from numpy.typing import ArrayLike

PENALTY = 3.0
"""Penalty of a step, in multiples of the logarithm of the number of values. A step costs a level
and a position; three is the leading term of the modified Bayes information criterion of Zhang &
Siegmund (2007), "A modified Bayes information criterion with applications to the analysis of
comparative genomic hybridization data"."""
FEW_VALUES = 30
"""Smallest number of values that the penalty of a step assumes if its significance is not tested.
With the logarithm of two, 15 % of all pairs of values from the same distribution have a step; with
that of 30, 0.1 %."""
MIN_RELATIVE_ERROR = 1e-3
"""Smallest standard error of a value, relative to the range of all values. Numbers that were
counted have no error at all, and without a floor every change of a byte would be a step."""
_MAD_TO_SD = 1.482602218505602
"""Standard deviation of a normal distribution, divided by its median absolute deviation."""


def run_to_run_noise(values: ArrayLike) -> float:
    """Return the standard deviation of single values, estimated from successive differences.

    It is the median absolute deviation of the differences from their median, scaled to a standard
    deviation and divided by sqrt(2), because a difference has the noise of two values. The median
    is not changed by a few steps, and the deviation from it is not changed by a linear drift.

    Args:
        values: ``(runs,)``.

    Returns:
        0 if there are fewer than three values.

    >>> run_to_run_noise([1.0, 2.0, 3.0, 14.0, 15.0])
    0.0
    """
    differences = np.diff(np.asarray(values, dtype=np.float64))
    if differences.size < 2:
        return 0.0
    deviations = np.abs(differences - np.median(differences))
    return float(_MAD_TO_SD * np.median(deviations) / np.sqrt(2))


def fit_steps(
    values: ArrayLike, errors: ArrayLike, penalty: float = PENALTY, min_count: int = 2
) -> list[int]:
    """Return the positions at which a series steps to another level.

    The fit minimizes, over all numbers and positions of steps and all levels ``m``::

        sum_t ((x_t - m_t) / s_t)^2 + penalty ln(max(n, min_count)) (number of steps)

    This is weighted least squares in place of the absolute deviations of airspeed velocity's
    ``step_detect`` (Virtanen 2016, "Detecting regressions" in the documentation of asv). The
    minimum is found exactly by optimal partitioning (Jackson et al. 2005, "An algorithm for optimal
    partitioning of data on an interval", equation 7) in O(n^2).

    Args:
        values: ``(n,)``, finite.
        errors: ``(n,)``, the standard error ``s_t`` of each value. It is at least the noise that
            :func:`run_to_run_noise` finds, and :data:`MIN_RELATIVE_ERROR` of the range.
        penalty: of a step, in multiples of the logarithm.
        min_count: smallest number of values that the penalty assumes; :data:`FEW_VALUES` for steps
            whose significance is not tested.

    Returns:
        The index of the first value of each new level, in order.

    Raises:
        ValueError: a value is not finite, or the shapes differ.

    >>> fit_steps([1.0, 1.1, 0.9, 5.0, 5.1, 4.9], [0.1] * 6)
    [3]
    """
    values = np.asarray(values, dtype=np.float64)
    errors = np.broadcast_to(np.asarray(errors, dtype=np.float64), values.shape)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError("a series of finite values is needed")
    count = values.size
    if count < 2 or not np.ptp(values) > 0:
        return []
    scale = np.abs(values).max()  # so that squares do not overflow
    values, errors = values / scale, np.where(np.isfinite(errors), errors, np.inf) / scale
    floor = max(run_to_run_noise(values), MIN_RELATIVE_ERROR * float(np.ptp(values)))
    with np.errstate(over="ignore"):  # of a value that is infinitely uncertain
        weights = 1 / np.square(np.maximum(errors, floor))
    centred = values - np.median(values)
    sums = [np.concatenate(([0.0], np.cumsum(weights * centred**power))) for power in range(3)]
    cost_of_step = penalty * np.log(max(count, min_count))
    # least[t] is the smallest cost of the first t values, and last[t] where their last level begins
    least, last = np.empty(count + 1), np.zeros(count + 1, dtype=int)
    least[0] = -cost_of_step  # the first level is no step
    for end in range(1, count + 1):
        weight, linear, square = (total[end] - total[:end] for total in sums)
        with np.errstate(divide="ignore", invalid="ignore"):
            deviation = np.where(weight > 0, square - linear**2 / weight, 0.0)
        costs = least[:end] + cost_of_step + deviation
        last[end] = int(np.argmin(costs))
        least[end] = costs[last[end]]
    starts, end = [], count
    while end > 0:
        starts.append(int(last[end]))
        end = last[end]
    return starts[::-1][1:]
