"""Repetition within generated texts."""

import numpy as np

from compression_gates.evals.metrics.generations import (
    describe_texts,
    finite_values,
    generation_metric,
)
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.regressions import worst_items
from compression_gates.evals.metrics.result import MetricResult, Scored
from compression_gates.evals.metrics.units import POINTS
from compression_gates.evals.statistics.item_values import INTERVALS, SCORE_CHANGE, ItemValues

N = 4
"""Number of tokens of an n-gram."""


def repeated_share(tokens: np.ndarray, n: int = N) -> np.ndarray:
    """Return the share of n-grams that repeat an earlier one, ``seq-rep-n`` of Welleck et al.
    (2020), "Neural text generation with unlikelihood training", section 6.

    ``1 - (number of distinct n-grams) / (number of n-grams)``; 0 for a text of fewer than n tokens.

    Args:
        tokens: ``(prompts, new)`` tokens, negative after the end.
        n: number of tokens of an n-gram.

    Returns:
        ``(prompts,)`` in [0, 1).

    >>> repeated_share(np.array([[1, 2, 1, 2, 1], [1, 2, 3, -1, -1]]), n=2).tolist()
    [0.5, 0.0]
    """
    shares = np.zeros(len(tokens))
    for index, row in enumerate(np.asarray(tokens)):
        text = row[row >= 0]
        count = len(text) - n + 1
        if count > 0:
            grams = np.lib.stride_tricks.sliding_window_view(text, n)
            shares[index] = 1 - len(np.unique(grams, axis=0)) / count
    return shares


def repetition_rise(baseline: Scored, candidate: Scored, role: str) -> MetricResult:
    """Return the rise of the mean share of repeated 4-grams in a text (:func:`repeated_share`).

    Args:
        baseline, candidate: what both models generated.
        role: role of the data, for messages.
    """
    before, after = (repeated_share(side["tokens"]) for side in (baseline, candidate))
    rise = finite_values(baseline, candidate, after - before)
    documents = np.asarray(baseline.data.documents)
    return MetricResult(
        estimate=INTERVALS[SCORE_CHANGE](rise, documents),
        baseline=float(before.mean()),
        candidate=float(after.mean()),
        worst=worst_items(rise, describe_texts(baseline, candidate)),
        facts={
            "repeated_baseline": float(before.mean()),
            "repeated_candidate": float(after.mean()),
        },
        reasons=(
            f"{after.mean():.1%} of the {N}-grams of the {role} are repeated, and "
            f"{before.mean():.1%} of the baseline's",
        ),
        items=ItemValues.of(SCORE_CHANGE, rise, documents, baseline),
    )


register(generation_metric(
    repetition_rise, name="repetition_rise", title="repetition", label="repeated 4-grams",
    promise="the share of repeated 4-grams in a text rises by at most {limit}", unit=POINTS,
    order=57, ceiling=1.0,
))  # fmt: skip
