"""Divergence between two predicted distributions of next tokens or classes, in nats.

See :func:`evals.scoring.divergence.divergences` for the formulas. There is one value per predicted
token, a sum over the whole vocabulary (not over sequence positions, as in one public
implementation). If the vocabularies differ in size, the sum is over the renormalized common rows.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, CLASSIFIER, EXTRACTIVE, SEQ2SEQ
from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.metric import CHOICES, Metric
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.regressions import Regression, regression, worst_items
from compression_gates.evals.metrics.result import (
    MetricResult,
    Scored,
    chance_level_tokens,
    check_paired,
    check_same_tokens,
)
from compression_gates.evals.metrics.units import NATS
from compression_gates.evals.scoring.divergence import divergences
from compression_gates.evals.statistics.estimate import Estimate
from compression_gates.evals.statistics.item_values import MEAN, ItemValues
from compression_gates.evals.statistics.means import series_mean, studentized_mean

MAX_JS = math.log(2)
"""Upper bound of the Jensen-Shannon divergence in nats."""
JS, KL_FORWARD, KL_BACKWARD = "js", "kl_forward", "kl_backward"
"""Jensen-Shannon, KL(baseline || candidate) and KL(candidate || baseline)."""
NEEDS_CLASSES: Mapping[str, tuple[str, ...]] = {CLASSIFIER: ("labels", "text")}
NEEDS_TOKENS: Mapping[str, tuple[str, ...]] = {CAUSAL: ("text",), SEQ2SEQ: ("text",)}
"""Roles of data that a metric of predicted classes or of next tokens needs, by kind of model."""


def group_means(values: ArrayLike, groups: ArrayLike) -> np.ndarray:
    """Return the mean of ``values`` ``(n,)`` in each group ``0 .. max`` of ``groups`` ``(n,)``."""
    return np.bincount(groups, values) / np.bincount(groups)


def describe_windows(scored: Scored, unit: str) -> Callable[[int], Regression]:
    """Return a function that describes the window at an index, with losses in ``unit``.

    The description is of the item; if it has several windows, with the text of the window.
    """
    texts = scored["window_text"]
    items = scored.measurement.arrays.get("window_item", np.arange(len(texts)))
    first = np.searchsorted(items, items)  # windows are in the order of their items
    windows = np.bincount(items)

    def describe(index: int) -> Regression:
        item = int(items[index])
        window = {}
        if windows[item] > 1:
            window = {"prompt": str(texts[index]), "window": int(index - first[index]) + 1}
        return regression(scored.data, item, unit=unit, **window)

    return describe


def js_divergence(baseline: Scored, candidate: Scored) -> MetricResult:
    """Return the mean Jensen-Shannon divergence of the candidate's predictions."""
    return mean_divergence(baseline, candidate, JS, MAX_JS)


def kl_from_baseline(baseline: Scored, candidate: Scored) -> MetricResult:
    """Return the mean ``KL(baseline || candidate)``, which is large if the candidate gives a
    probability near 0 to what the baseline predicts."""
    return mean_divergence(baseline, candidate, KL_FORWARD)


def kl_to_baseline(baseline: Scored, candidate: Scored) -> MetricResult:
    """Return the mean ``KL(candidate || baseline)``, which is large if the baseline gives a
    probability near 0 to what the candidate predicts."""
    return mean_divergence(baseline, candidate, KL_BACKWARD)


def mean_divergence(
    baseline: Scored, candidate: Scored, name: str, maximum: float = math.inf
) -> MetricResult:
    """Return the mean divergence of the candidate's predictions from the baseline's.

    The predictions are next tokens, classes, or the start and end of an answer for extractive
    models.

    Args:
        baseline, candidate: both sides.
        name: :data:`JS`, :data:`KL_FORWARD` or :data:`KL_BACKWARD`.
        maximum: upper bound of the divergence.
    """
    check_paired(baseline, candidate)
    if name not in candidate.measurement.arrays:
        return _class_divergence(baseline, candidate, name, maximum)
    return token_mean_result(baseline, candidate, candidate[name], maximum, "nats per token")


def token_mean_result(
    baseline: Scored, candidate: Scored, values: np.ndarray, maximum: float, unit: str
) -> MetricResult:
    """Return the result of a mean distance of predicted tokens.

    Args:
        baseline, candidate: both sides.
        values: ``(tokens,)``, in [0, ``maximum``]; 0 for identical predictions.
        maximum: upper bound of the values.
        unit: of a window's mean value, in messages.
    """
    check_same_tokens(baseline, candidate)
    at_chance = chance_level_tokens(baseline, candidate)
    if at_chance is not None:
        return at_chance
    losses = group_means(values, candidate["window"])
    return MetricResult(
        estimate=_bounded_mean(values, candidate["cluster"], maximum, candidate.is_one_document),
        baseline=0.0,
        candidate=float(values.mean()),
        worst=worst_items(losses, describe_windows(candidate, unit)),
        facts={
            "kl_from_baseline": float(candidate[KL_FORWARD].mean()),
            "kl_to_baseline": float(candidate[KL_BACKWARD].mean()),
            "total_variation": float(candidate["tv"].mean()),
            "top1_agreement": float(candidate["agree"].mean()),
        },
        items=ItemValues.of_tokens(values, baseline),
    )


def check_same_classes(baseline: Scored, candidate: Scored) -> None:
    """Raise an EvalError if the two models have different numbers of classes."""
    classes = [side["log_probabilities"].shape[1] for side in (baseline, candidate)]
    if classes[0] != classes[1]:
        raise EvalError(f"the label sets differ: {classes[0]} and {classes[1]} classes")


def _bounded_mean(
    values: np.ndarray, documents: ArrayLike, maximum: float, one_document: bool = False
) -> Estimate:
    """Return the mean over documents, or over the windows of one document, with the interval
    clipped to [0, ``maximum``]."""
    mean = series_mean if one_document else studentized_mean
    return mean(values, documents).map(
        lambda value: value if math.isnan(value) else min(max(value, 0.0), maximum)
    )


def js_values(baseline: Scored, candidate: Scored) -> tuple[np.ndarray, np.ndarray]:
    """Return the Jensen-Shannon divergence of each prediction and the document of each; in place
    of the document the window, if all are of one document.

    Raises:
        EvalError: the two sides are not comparable.
    """
    check_paired(baseline, candidate)
    if JS in candidate.measurement.arrays:
        check_same_tokens(baseline, candidate)
        return candidate[JS], candidate["cluster"]
    return _class_divergences(baseline, candidate)[JS], _class_documents(baseline, candidate)


def _class_divergences(baseline: Scored, candidate: Scored) -> dict[str, np.ndarray]:
    """Return the divergences ``(predictions,)`` of predicted classes by name."""
    import torch

    check_same_classes(baseline, candidate)
    sides = [torch.from_numpy(side["log_probabilities"]) for side in (baseline, candidate)]
    arrays = [values.numpy() for values in divergences(*sides)]
    return dict(zip((JS, KL_FORWARD, KL_BACKWARD), arrays, strict=True))


def _class_documents(baseline: Scored, candidate: Scored) -> np.ndarray:
    documents = np.asarray(baseline.data.documents)
    return documents[candidate["item"]] if "item" in candidate.measurement.arrays else documents


def _class_divergence(
    baseline: Scored, candidate: Scored, name: str, maximum: float
) -> MetricResult:
    by_name = _class_divergences(baseline, candidate)
    values, documents = by_name[name], _class_documents(baseline, candidate)
    places = candidate.measurement.arrays.get("item", range(len(values)))
    return MetricResult(
        estimate=_bounded_mean(values, documents, maximum),
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
    is_distance=True, needs={**NEEDS_TOKENS, **NEEDS_CLASSES, EXTRACTIVE: ("answers",)},
)  # fmt: skip
register(_divergence(
    name="js_divergence", title="JS", label="JS divergence", function=js_divergence, order=20,
    promise="predictions diverge by at most {limit} (Jensen-Shannon)", ceiling=MAX_JS,
))  # fmt: skip
register(_divergence(
    name="kl_from_baseline", title="KL from", label="KL divergence from the baseline", order=21,
    promise="KL(baseline || candidate) is at most {limit}", function=kl_from_baseline,
))  # fmt: skip
register(_divergence(
    name="kl_to_baseline", title="KL to", label="KL divergence to the baseline", order=22,
    promise="KL(candidate || baseline) is at most {limit}", function=kl_to_baseline,
))  # fmt: skip
