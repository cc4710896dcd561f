"""Tests of the hypothesis that paired items get worse as often as they get better."""

import numpy as np
from numpy.typing import ArrayLike


def mcnemar(losses: int, gains: int) -> float:
    """Return the two-sided mid-p value of McNemar's test that losses and gains are equally likely.

    This is the exact binomial test on the discordant pairs, with half the probability of the
    observed outcome (Fagerland, Lydersen & Laake 2013). It is 1 without discordant pairs. The
    pairs have to be independent; with several pairs per document use :func:`clustered_sign_test`.

    Args:
        losses: number of pairs that were right and became wrong.
        gains: number of pairs that were wrong and became right.

    >>> mcnemar(0, 0)
    1.0
    """
    from scipy.stats import binom

    pairs, fewer = losses + gains, min(losses, gains)
    if losses == gains:
        return 1.0
    return float(2 * binom.cdf(fewer, pairs, 0.5) - binom.pmf(fewer, pairs, 0.5))


def clustered_sign_test(changes: ArrayLike, clusters: ArrayLike) -> float:
    """Return the two-sided mid-p value of the test that documents get worse as often as better.

    Only the sign of a change is used, so the scores need not be binary. Under the null hypothesis
    the net change ``d_g`` of a document, its losses minus its gains, is symmetric about zero. The
    p-value is that of the exact sign-flipping test on the sum, with half the probability of the
    observed value::

        p = P(|sum_g +-d_g| > |sum_g d_g|) + P(|sum_g +-d_g| = |sum_g d_g|) / 2

    With one item per document this equals :func:`mcnemar`. It is 1 if losses equal gains.

    Args:
        changes: ``(n,)``; positive for a loss, negative for a gain, 0 for no change.
        clusters: ``(n,)``, the document of each item.

    >>> clustered_sign_test([1, 1, 1, 0, -1], [0, 1, 2, 3, 4]) == mcnemar(3, 1)
    True
    """
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    net = np.rint(np.bincount(index, np.sign(np.asarray(changes)))).astype(int)
    observed = abs(int(net.sum()))
    sizes, counts = np.unique(np.abs(net[net != 0]), return_counts=True)
    if observed == 0:
        return 1.0
    if sizes.size == 1:  # documents of equal net change: McNemar's test over documents
        return mcnemar(int((net > 0).sum()), int((net < 0).sum()))
    probabilities = _positive_sum_distribution(sizes, counts)
    total = int(sizes @ counts)
    sums = np.abs(2 * np.arange(total + 1) - total)
    return float(probabilities[sums > observed].sum() + probabilities[sums == observed].sum() / 2)


def sign_flip_test(net_changes: ArrayLike) -> float:
    """Return the one-sided p-value of the test that documents get worse no more than better.

    Under the null hypothesis the net change of each document is symmetric about zero. The p-value
    is that of the exact sign-flipping test on the sum, ``P(sum_g +-d_g >= sum_g d_g)``. For changes
    of -1, 0 and 1 this is McNemar's exact one-sided test.

    Args:
        net_changes: ``(documents,)`` integers; positive for a loss.

    >>> sign_flip_test([2, 2, 2, 0, -2])  # P(Binomial(4, 1/2) >= 3)
    0.3125
    """
    net = np.asarray(net_changes, dtype=np.int64)
    net = net[net != 0]
    if not net.size:
        return 1.0
    net //= np.gcd.reduce(net)
    sizes, counts = np.unique(np.abs(net), return_counts=True)
    probabilities = _positive_sum_distribution(sizes, counts)
    # A sum s of the signed changes has a sum (total + s) / 2 of the positive ones.
    smallest = int(np.abs(net).sum() + net.sum()) // 2
    return min(float(probabilities[smallest:].sum()), 1.0)


def _positive_sum_distribution(sizes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the distribution ``(total + 1,)`` of the sum of the changes with a positive sign.

    Args:
        sizes: ``(k,)`` distinct absolute net changes.
        counts: ``(k,)``, how many documents have each of them.
    """
    from scipy.stats import binom

    probabilities = np.ones(1)
    for size, count in zip(sizes, counts, strict=True):
        of_size = np.zeros(size * count + 1)
        of_size[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        probabilities = np.convolve(probabilities, of_size)
    return probabilities
