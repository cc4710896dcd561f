"""Divergence between two next-token (or class) distributions, over the whole vocabulary, in nats.

See :func:`evals.scoring.divergence.divergences` for the formulas. The sum runs over the vocabulary,
one value per predicted token; of two vocabularies with other numbers of rows over those that both
have, renormalized. Taking the softmax over sequence positions, as one public
implementation does, measures something else.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, CLASSIFIER, EXTRACTIVE, SEQ2SEQ
from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.metric import CHOICES, Metric
from compression_gates.evals.metrics.reading import (
    Reading,
    Scored,
    check_paired,
    check_same_tokens,
    guessed_tokens,
)
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.regressions import Regression, regression, worst_items
from compression_gates.evals.metrics.units import NATS
from compression_gates.evals.scoring.divergence import divergences
from compression_gates.evals.statistics.estimate import Estimate
from compression_gates.evals.statistics.item_values import MEAN, ItemValues
from compression_gates.evals.statistics.means import series_mean, studentized_mean

LARGEST = math.log(2)
"""No Jensen-Shannon divergence is larger, in nats."""
JS, KL_FORWARD, KL_BACKWARD = "js", "kl_forward", "kl_backward"
"""Jensen-Shannon, KL(baseline || candidate) and KL(candidate || baseline)."""
CLASSIFIED: Mapping[str, tuple[str, ...]] = {CLASSIFIER: ("labels", "text")}
"""Needs of a metric that compares predicted classes, and of one that compares next tokens."""
PREDICTED: Mapping[str, tuple[str, ...]] = {CAUSAL: ("text",), SEQ2SEQ: ("text",)}


def group_means(values: ArrayLike, groups: ArrayLike) -> np.ndarray:
    """Mean of ``values`` ``(n,)`` over each group ``0 .. max`` of ``groups`` ``(n,)``."""
    return np.bincount(groups, values) / np.bincount(groups)


def windows_of(scored: Scored, unit: str) -> Callable[[int], Regression]:
    """Describes the window at an index, whose loss is in ``unit``: the item that it is of, and its
    text where the item has several windows."""
    texts = scored["window_text"]
    items = scored.measurement.arrays.get("window_item", np.arange(len(texts)))
    first = np.searchsorted(items, items)  # windows are in the order of their items
    windows = np.bincount(items)

    def describe(index: int) -> Regression:
        item = int(items[index])
        part = {}
        if windows[item] > 1:
            part = {"prompt": str(texts[index]), "window": int(index - first[index]) + 1}
        return regression(scored.data, item, unit=unit, **part)

    return describe


def js_divergence(baseline: Scored, candidate: Scored) -> Reading:
    """Mean Jensen-Shannon divergence of the candidate's predictions from the baseline's."""
    return mean_divergence(baseline, candidate, JS, LARGEST)


def kl_from_baseline(baseline: Scored, candidate: Scored) -> Reading:
    """Mean ``KL(baseline || candidate)``: large where the candidate all but rules out what the
    baseline finds likely."""
    return mean_divergence(baseline, candidate, KL_FORWARD)


def kl_to_baseline(baseline: Scored, candidate: Scored) -> Reading:
    """Mean ``KL(candidate || baseline)``: large where the candidate finds likely what the baseline
    all but rules out."""
    return mean_divergence(baseline, candidate, KL_BACKWARD)


def mean_divergence(
    baseline: Scored, candidate: Scored, which: str, most: float = math.inf
) -> Reading:
    """Mean divergence of the candidate's predictions from the baseline's.

    Of next tokens where tokens are predicted, of classes for classifiers, of the places where an
    answer starts and ends for extractive models.

    Args:
        baseline, candidate: both sides.
        which: :data:`JS`, :data:`KL_FORWARD` or :data:`KL_BACKWARD`.
        most: no value is larger.
    """
    check_paired(baseline, candidate)
    if which not in candidate.measurement.arrays:
        return _of_classes(baseline, candidate, which, most)
    return mean_of_tokens(baseline, candidate, candidate[which], most, "nats per token")


def mean_of_tokens(
    baseline: Scored, candidate: Scored, values: np.ndarray, most: float, unit: str
) -> Reading:
    """Mean of ``values`` ``(tokens,)`` of the predicted tokens, each from 0 to ``most`` and 0 where
    both sides predict the same."""
    check_same_tokens(baseline, candidate)
    guessed = guessed_tokens(baseline, candidate)
    if guessed is not None:
        return guessed
    losses = group_means(values, candidate["window"])
    return Reading(
        estimate=_mean(values, candidate["cluster"], most, candidate.is_one_document),
        baseline=0.0,
        candidate=float(values.mean()),
        worst=worst_items(losses, windows_of(candidate, unit)),
        facts={
            "kl_from_baseline": float(candidate[KL_FORWARD].mean()),
            "kl_to_baseline": float(candidate[KL_BACKWARD].mean()),
            "top1_agreement": float(candidate["agree"].mean()),
        },
        items=ItemValues.of_tokens(values, baseline),
    )


def check_same_classes(baseline: Scored, candidate: Scored) -> None:
    """Raises an EvalError if one side knows more classes than the other."""
    one, two = (side["log_probabilities"].shape[1] for side in (baseline, candidate))
    if one != two:
        raise EvalError(f"the label sets differ: {one} classes and {two}")


def _mean(
    values: np.ndarray, documents: ArrayLike, most: float, one_document: bool = False
) -> Estimate:
    """Their mean over documents, or over the windows of one, in an interval of what it can be."""
    mean = series_mean if one_document else studentized_mean
    return mean(values, documents).map(
        lambda value: value if math.isnan(value) else min(max(value, 0.0), most)
    )


def _of_classes(baseline: Scored, candidate: Scored, which: str, most: float) -> Reading:
    import torch

    check_same_classes(baseline, candidate)
    sides = [torch.from_numpy(side["log_probabilities"]) for side in (baseline, candidate)]
    numbers = [values.numpy() for values in divergences(*sides)]
    by_name = dict(zip((JS, KL_FORWARD, KL_BACKWARD), numbers, strict=True))
    values, items = by_name[which], candidate.data.items
    if "item" in candidate.measurement.arrays:
        places = candidate["item"]
        documents = np.asarray(baseline.data.documents)[places]
    else:
        places, documents = range(len(items)), baseline.data.documents
    return Reading(
        estimate=_mean(values, documents, most),
        baseline=0.0,
        candidate=float(values.mean()),
        worst=worst_items(
            values, lambda i: regression(candidate.data, int(places[i]), unit="nats")
        ),
        facts={
            "kl_from_baseline": float(by_name[KL_FORWARD].mean()),
            "kl_to_baseline": float(by_name[KL_BACKWARD].mean()),
        },
        items=ItemValues.of(MEAN, values, documents, baseline),
    )


_divergence = partial(
    Metric, unit=NATS, scored="predicted", lm_eval=(CHOICES,), counted="documents",
    is_distance=True, needs={**PREDICTED, **CLASSIFIED, EXTRACTIVE: ("answers",)},
)  # fmt: skip
register(_divergence(
    name="js_divergence", title="JS", label="JS divergence", function=js_divergence, order=20,
    promise="predictions diverge by at most {limit} (Jensen-Shannon)", ceiling=LARGEST,
))  # fmt: skip
register(_divergence(
    name="kl_from_baseline", title="KL from", label="KL divergence from the baseline", order=21,
    promise="KL(baseline || candidate) is at most {limit}", function=kl_from_baseline,
))  # fmt: skip
register(_divergence(
    name="kl_to_baseline", title="KL to", label="KL divergence to the baseline", order=22,
    promise="KL(candidate || baseline) is at most {limit}", function=kl_to_baseline,
))  # fmt: skip
