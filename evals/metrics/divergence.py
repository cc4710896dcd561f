"""Divergence between two next-token (or class) distributions, over the whole vocabulary, in nats.

See :func:`evals.scoring.divergence.divergences` for the formulas. The sum runs over the vocabulary,
one value per predicted token; of two vocabularies with other numbers of rows over those that both
have, renormalized. Taking the softmax over sequence positions, as one public
implementation does, measures something else.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.reading import (
    Reading,
    Scored,
    check_paired,
    check_same_tokens,
    guessed_tokens,
)
from compression_gates.evals.metrics.regressions import Regression, regression, worst_items
from compression_gates.evals.scoring.divergence import divergences
from compression_gates.evals.statistics.estimate import Estimate
from compression_gates.evals.statistics.item_values import MEAN, ItemValues
from compression_gates.evals.statistics.means import series_mean, studentized_mean

LARGEST = math.log(2)
"""No Jensen-Shannon divergence is larger, in nats."""


def group_means(values: ArrayLike, groups: ArrayLike) -> np.ndarray:
    """Mean of ``values`` ``(n,)`` over each group ``0 .. max`` of ``groups`` ``(n,)``."""
    return np.bincount(groups, values) / np.bincount(groups)


def windows_of(scored: Scored) -> Callable[[int], Regression]:
    """Describes the window at an index: the item that it is of, and its text where the item has
    several windows."""
    texts = scored["window_text"]
    items = scored.measurement.arrays.get("window_item", np.arange(len(texts)))
    first = np.searchsorted(items, items)  # windows are in the order of their items
    windows = np.bincount(items)

    def describe(index: int) -> Regression:
        item = int(items[index])
        part = {}
        if windows[item] > 1:
            part = {"prompt": str(texts[index]), "window": int(index - first[index]) + 1}
        return regression(scored.data, item, unit="nats per token", **part)

    return describe


def js_divergence(baseline: Scored, candidate: Scored) -> Reading:
    """Mean Jensen-Shannon divergence of the candidate's predictions from the baseline's.

    Of next tokens where tokens are predicted, of classes for classifiers, of the places where an
    answer starts and ends for extractive models.
    """
    check_paired(baseline, candidate)
    if "js" in candidate.measurement.arrays:
        check_same_tokens(baseline, candidate)
        guessed = guessed_tokens(baseline, candidate)
        if guessed is not None:
            return guessed
        return _next_tokens(baseline, candidate)
    return _classes(baseline, candidate)


def check_same_classes(baseline: Scored, candidate: Scored) -> None:
    """Raises an EvalError if one side knows more classes than the other."""
    one, two = (side["log_probabilities"].shape[1] for side in (baseline, candidate))
    if one != two:
        raise EvalError(f"the label sets differ: {one} classes and {two}")


def _mean(js: np.ndarray, documents: ArrayLike, one_document: bool = False) -> Estimate:
    """Its mean over documents, or over the windows of one, in an interval of what it can be."""
    mean = series_mean if one_document else studentized_mean
    return mean(js, documents).map(
        lambda value: value if math.isnan(value) else min(max(value, 0.0), LARGEST)
    )


def _next_tokens(baseline: Scored, candidate: Scored) -> Reading:
    js = candidate["js"]
    losses = group_means(js, candidate["window"])
    return Reading(
        estimate=_mean(js, candidate["cluster"], candidate.is_one_document),
        baseline=0.0,
        candidate=float(js.mean()),
        worst=worst_items(losses, windows_of(candidate)),
        facts={
            "kl_from_baseline": float(candidate["kl_forward"].mean()),
            "kl_to_baseline": float(candidate["kl_backward"].mean()),
            "top1_agreement": float(candidate["agree"].mean()),
        },
        items=ItemValues.of_tokens(js, baseline),
    )


def _classes(baseline: Scored, candidate: Scored) -> Reading:
    import torch

    check_same_classes(baseline, candidate)
    one, two = (torch.from_numpy(side["log_probabilities"]) for side in (baseline, candidate))
    js, forward, backward = (values.numpy() for values in divergences(one, two))
    items = candidate.data.items
    if "item" in candidate.measurement.arrays:
        which = candidate["item"]
        documents = np.asarray(baseline.data.documents)[which]
    else:
        which, documents = range(len(items)), baseline.data.documents
    return Reading(
        estimate=_mean(js, documents),
        baseline=0.0,
        candidate=float(js.mean()),
        worst=worst_items(js, lambda i: regression(candidate.data, int(which[i]), unit="nats")),
        facts={
            "kl_from_baseline": float(forward.mean()),
            "kl_to_baseline": float(backward.mean()),
        },
        items=ItemValues.of(MEAN, js, documents, baseline),
    )
