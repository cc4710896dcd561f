"""Predicted classes: what the metrics of classifiers have in common."""

from collections.abc import Callable

import numpy as np

from compression_gates.evals.metrics.reading import Scored
from compression_gates.evals.metrics.regressions import PROMPT_WIDTH, Regression, regression


def predictions(scored: Scored) -> np.ndarray:
    """``(n,)`` most likely class. A row that is not a distribution predicts -1, never a class."""
    log_probabilities = scored["log_probabilities"]
    likely = log_probabilities.argmax(axis=1)
    return np.where(np.isnan(log_probabilities).any(axis=1), -1, likely)


def described(baseline: Scored, candidate: Scored) -> Callable[[int], Regression]:
    """Describes the item at an index, with the predictions of both sides."""
    items = candidate.data.items
    if "right" in baseline.measurement.arrays:
        sides = [side["right"] == 1 for side in (baseline, candidate)]
        return lambda i: regression(
            candidate.data,
            i,
            question=items[i].text[20 - PROMPT_WIDTH :],  # the end of a logged prompt is what asks
            baseline=bool(sides[0][i]),
            candidate=bool(sides[1][i]),
        )
    before, after = predictions(baseline), predictions(candidate)
    return lambda i: regression(
        candidate.data,
        i,
        expected=getattr(items[i], "label", None),
        baseline=int(before[i]),
        candidate=int(after[i]),
    )
