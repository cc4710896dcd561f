"""Tests that paired right and wrong answers change as often for the worse as for the better."""

import numpy as np
from numpy.typing import ArrayLike


def mcnemar(losses: int, gains: int) -> float:
    """Two-sided mid-p value of McNemar's test that losses are as likely as gains.

    The exact binomial test, with half of the probability of what was seen (Fagerland, Lydersen &
    Laake 2013); 1 where no pair differs. For pairs that are independent; of several in a document
    use :func:`clustered_mcnemar`.

    Args:
        losses: pairs that were right and are wrong.
        gains: pairs that were wrong and are right.

    >>> mcnemar(0, 0)
    1.0
    """
    from scipy.stats import binom

    pairs, fewer = losses + gains, min(losses, gains)
    if losses == gains:
        return 1.0
    return float(2 * binom.cdf(fewer, pairs, 0.5) - binom.pmf(fewer, pairs, 0.5))


def clustered_mcnemar(changes: ArrayLike, clusters: ArrayLike) -> float:
    """Two-sided mid-p value of the test that documents change for the worse as often as for the
    better.

    Under the null hypothesis the net change ``d_g`` of each document, its losses less its gains, is
    as likely to be ``-d_g``. The test is the exact sign-flipping test on their sum, with half of
    the probability of what was seen::

        p = P(|sum_g +-d_g| > |sum_g d_g|) + P(|sum_g +-d_g| = |sum_g d_g|) / 2

    It is McNemar's mid-p test where each document has one item. 1 where losses equal gains.

    Args:
        changes: ``(n,)``; positive for a loss, negative for a gain, 0 for neither.
        clusters: ``(n,)``, the document of each item.

    >>> clustered_mcnemar([1, 1, 1, 0, -1], [0, 1, 2, 3, 4]) == mcnemar(3, 1)
    True
    """
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    net = np.rint(np.bincount(index, np.sign(np.asarray(changes)))).astype(int)
    seen = abs(int(net.sum()))
    sizes, counts = np.unique(np.abs(net[net != 0]), return_counts=True)
    if seen == 0:
        return 1.0
    if sizes.size == 1:  # all of one size are McNemar's, by document
        return mcnemar(int((net > 0).sum()), int((net < 0).sum()))
    chances = _positive_sum(sizes, counts)
    total = int(sizes @ counts)
    sums = np.abs(2 * np.arange(total + 1) - total)
    return float(chances[sums > seen].sum() + chances[sums == seen].sum() / 2)


def _positive_sum(sizes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``(total + 1,)`` distribution of the sum of those that a fair coin chooses out of ``counts``
    numbers of each size."""
    from scipy.stats import binom

    chances = np.ones(1)
    for size, count in zip(sizes, counts, strict=True):
        of_size = np.zeros(size * count + 1)
        of_size[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, of_size)
    return chances
