"""Detection of slow drifts in a series of runs.

A drift of a tenth of a limit per night is never a change that one night proves. Bartlett (1949),
"Fitting a straight line when both variables are subject to error", compares the mean of the last
third of a series with the mean of its first third. For a straight line this has 94 % of the
efficiency of least squares. Unlike a fitted slope, the difference of the two means is never larger
than the largest change of the quantity itself, so that a bound on the change is also a bound on it.
"""

from collections.abc import Iterator

WINDOWS = (15, 30)
"""Numbers of latest runs over which a drift is tested; a shorter series is tested as a whole."""
MIN_RUNS = 6
"""Smallest number of runs over which a drift is tested: two in each third."""


def thirds(count: int) -> Iterator[tuple[slice, slice]]:
    """Yield the first and the last third of each window that ends with the latest run.

    Args:
        count: number of runs.

    Yields:
        Slices of the runs, at most one pair for each of :data:`WINDOWS`.

    >>> list(thirds(16))
    [(slice(1, 6, None), slice(11, 16, None)), (slice(0, 5, None), slice(11, 16, None))]
    """
    for size in sorted({min(window, count) for window in WINDOWS}):
        if size >= MIN_RUNS:
            third = size // 3
            yield slice(count - size, count - size + third), slice(count - third, count)
