"""Predicted classes: functions that the metrics of classifiers share."""

from collections.abc import Callable

import numpy as np

from compression_gates.evals.metrics.regressions import PROMPT_WIDTH, Regression, regression
from compression_gates.evals.metrics.result import Scored


def predictions(scored: Scored) -> np.ndarray:
    """Return the most likely classes, ``(n,)``; -1 for a row with NaN."""
    log_probabilities = scored["log_probabilities"]
    likely = log_probabilities.argmax(axis=1)
    return np.where(np.isnan(log_probabilities).any(axis=1), -1, likely)


def describe_items(baseline: Scored, candidate: Scored) -> Callable[[int], Regression]:
    """Return a function that describes the item at an index with the predictions of both sides."""
    items = candidate.data.items
    if "right" in baseline.measurement.arrays:
        right = [side["right"] == 1 for side in (baseline, candidate)]
        return lambda i: regression(
            candidate.data,
            i,
            question=items[i].text[20 - PROMPT_WIDTH :],  # a logged prompt ends with the question
            baseline=bool(right[0][i]),
            candidate=bool(right[1][i]),
        )
    before, after = predictions(baseline), predictions(candidate)
    return lambda i: regression(
        candidate.data,
        i,
        expected=getattr(items[i], "label", None),
        baseline=int(before[i]),
        candidate=int(after[i]),
    )
