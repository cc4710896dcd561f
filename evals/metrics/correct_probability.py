"""Change of the probability of the correct next token.

With the probabilities p of the baseline and p' of the candidate, computed from their losses as
``exp(-NLL)``, the change of a token is ``p' - p``. In contrast to a change of the loss it is
bounded, so that a few tokens of low probability do not dominate it. The perplexity tool of
llama.cpp prints its mean, its root mean square and its quantiles with ``--kl-divergence``.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from compression_gates.evals.metrics.kl_quantiles import group_quantiles
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.prediction_divergence import (
    NEEDS_TOKENS,
    bounded_mean,
    describe_windows,
    group_means,
)
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.regressions import worst_items
from compression_gates.evals.metrics.result import (
    MetricResult,
    Scored,
    chance_level_tokens,
    check_paired,
    check_same_tokens,
)
from compression_gates.evals.metrics.units import PERCENT, POINTS
from compression_gates.evals.statistics.estimate import Estimate
from compression_gates.evals.statistics.item_values import ItemValues
from compression_gates.evals.statistics.quantiles import clustered_quantile

TAIL = 0.99
"""Share of the tokens whose drop is at most the judged quantile."""


def correct_probability_drop(baseline: Scored, candidate: Scored) -> MetricResult:
    """Return the mean drop ``p - p'`` of the correct token's probability."""

    def mean(drop: np.ndarray) -> Estimate:
        documents = candidate["cluster"]
        return bounded_mean(drop, documents, (-1.0, 1.0), candidate.is_one_document)

    return _result(baseline, candidate, mean, group_means, is_mean=True)


def correct_probability_rms(baseline: Scored, candidate: Scored) -> MetricResult:
    """Return the root mean square of the change ``p' - p`` of the correct token's probability.

    It is a distance: a higher probability counts as much as a lower one.
    """

    def root_mean_square(drop: np.ndarray) -> Estimate:
        documents, squares = candidate["cluster"], np.square(drop)
        mean = bounded_mean(squares, documents, (0.0, 1.0), candidate.is_one_document)
        # The mean of a single document has no interval, so that its lower end is -inf.
        return mean.map(lambda square: square if square < 0 else math.sqrt(square))

    def by_window(drop: np.ndarray, windows: np.ndarray) -> np.ndarray:
        return np.sqrt(group_means(np.square(drop), windows))

    return _result(baseline, candidate, root_mean_square, by_window)


def correct_probability_p99_drop(baseline: Scored, candidate: Scored) -> MetricResult:
    """Return the 99 % quantile of the drop ``p - p'``, which is the 1 % quantile of the change with
    the opposite sign."""

    def quantile(drop: np.ndarray) -> Estimate:
        is_series = candidate.is_one_document
        return clustered_quantile(drop, candidate["cluster"], TAIL, is_series=is_series)

    return _result(baseline, candidate, quantile, partial(group_quantiles, q=TAIL))


def _result(
    baseline: Scored,
    candidate: Scored,
    estimate: Callable[[np.ndarray], Estimate],
    by_window: Callable[[np.ndarray, np.ndarray], np.ndarray],
    is_mean: bool = False,
) -> MetricResult:
    """Return the result of a statistic of the drops of all tokens.

    Args:
        baseline, candidate: both sides.
        estimate: maps the drops ``(tokens,)`` to the statistic.
        by_window: maps the drops and the window of each token to the statistic of each window.
        is_mean: whether the statistic is the mean of the drops, so that each model has a value of
            its own.

    Raises:
        EvalError: the two sides cannot be paired.
    """
    check_paired(baseline, candidate)
    check_same_tokens(baseline, candidate)
    at_chance = chance_level_tokens(baseline, candidate)
    if at_chance is not None:
        return at_chance
    before, after = (np.exp(-side["nll"].astype(np.float64)) for side in (baseline, candidate))
    drop = before - after
    quantiles = np.quantile(-drop, (0.01, 0.5, 0.99), method="inverted_cdf")
    statistic = estimate(drop)
    levels = (float(before.mean()), float(after.mean())) if is_mean else (0.0, statistic.value)
    return MetricResult(
        estimate=statistic,
        baseline=levels[0],
        candidate=levels[1],
        worst=worst_items(
            by_window(drop, candidate["window"]),
            describe_windows(candidate, "of the correct token's probability"),
        ),
        facts={
            "probability": float(before.mean()),
            "change_mean": float(-drop.mean()),
            "change_rms": float(np.sqrt(np.square(drop).mean())),
            **dict(zip(("change_p1", "change_median", "change_p99"), map(float, quantiles),
                       strict=True)),
        },
        items=ItemValues.of_tokens(drop, baseline) if is_mean else None,
    )  # fmt: skip


_change = partial(
    Metric, scored="text", needs=NEEDS_TOKENS, counted="documents", ceiling=1.0,
)  # fmt: skip
register(_change(
    name="correct_probability_drop", title="Δp", label="mean probability of the correct token",
    promise="the mean probability of the correct token falls by at most {limit}", unit=POINTS,
    level_unit=PERCENT, function=correct_probability_drop, order=15, drop=True,
))  # fmt: skip
register(_change(
    name="correct_probability_rms", title="Δp RMS", unit=PERCENT, order=16, is_distance=True,
    label="root mean square of the change of the correct token's probability",
    promise="the probability of the correct token changes by at most {limit} (root mean square)",
    function=correct_probability_rms,
))  # fmt: skip
register(_change(
    name="correct_probability_p99_drop", title="Δp 1%", unit=POINTS, order=17, drop=True,
    label="1% quantile of the change of the correct token's probability",
    promise="the probability of the correct token falls by at most {limit} at 99% of the tokens",
    function=correct_probability_p99_drop,
))  # fmt: skip
