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
JS, KL_FORWARD, KL_BACKWARD, TV = "js", "kl_forward", "kl_backward", "tv"
"""Jensen-Shannon, KL(baseline || candidate), KL(candidate || baseline), and the total variation
distance."""
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
    baseline: Scored,
    candidate: Scored,
    name: str,
    maximum: float = math.inf,
    unit: str = "nats",
) -> MetricResult:
    """Return the mean divergence of the candidate's predictions from the baseline's.

    The predictions are next tokens, classes, or the start and end of an answer for extractive
    models.

    Args:
        baseline, candidate: both sides.
        name: :data:`JS`, :data:`KL_FORWARD`, :data:`KL_BACKWARD` or :data:`TV`.
        maximum: upper bound of the divergence.
        unit: of the divergence, in messages.
    """
    check_paired(baseline, candidate)
    if not predicts_tokens(candidate):
        return _class_divergence(baseline, candidate, name, maximum, unit)
    return token_mean_result(baseline, candidate, candidate[name], maximum, f"{unit} per token")


def predicts_tokens(candidate: Scored) -> bool:
    """Return whether the predictions are tokens, whose divergences were computed when they were
    scored; otherwise they are classes, or the start and end of an answer."""
    return JS in candidate.measurement.arrays


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
        estimate=bounded_mean(
            values, candidate["cluster"], (0.0, maximum), candidate.is_one_document
        ),
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


def bounded_mean(
    values: np.ndarray,
    documents: ArrayLike,
    bounds: tuple[float, float],
    one_document: bool = False,
) -> Estimate:
    """Return the mean over documents, or over the windows of one document, with the interval
    clipped to the ``bounds`` of the values.

    Infinite ends are not clipped: a single document has no interval, and the range of the values
    is none.
    """
    mean = series_mean if one_document else studentized_mean
    low, high = bounds
    return mean(values, documents).map(
        lambda value: min(max(value, low), high) if math.isfinite(value) else value
    )


def divergence_values(
    baseline: Scored, candidate: Scored, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return a divergence of each prediction and the document of each; in place of the document
    the window, if all tokens are of one document.

    Args:
        baseline, candidate: both sides.
        name: :data:`JS`, :data:`KL_FORWARD`, :data:`KL_BACKWARD` or :data:`TV`.

    Raises:
        EvalError: the two sides are not comparable.
    """
    check_paired(baseline, candidate)
    if predicts_tokens(candidate):
        check_same_tokens(baseline, candidate)
        return candidate[name], candidate["cluster"]
    return _class_divergences(baseline, candidate)[name], _class_documents(baseline, candidate)


def _class_divergences(baseline: Scored, candidate: Scored) -> dict[str, np.ndarray]:
    """Return the divergences ``(predictions,)`` of predicted classes by name."""
    check_same_classes(baseline, candidate)
    sides = [side["log_probabilities"] for side in (baseline, candidate)]
    before, after = (np.exp(side, dtype=np.float64) for side in sides)
    arrays = [*divergences(*sides), np.abs(before - after).sum(axis=1) / 2]
    return dict(zip((JS, KL_FORWARD, KL_BACKWARD, TV), arrays, strict=True))


def _class_documents(baseline: Scored, candidate: Scored) -> np.ndarray:
    documents = np.asarray(baseline.data.documents)
    return documents[candidate["item"]] if "item" in candidate.measurement.arrays else documents


def describe_predictions(candidate: Scored, unit: str) -> Callable[[int], Regression]:
    """Return a function that describes the item of the predicted class at an index."""
    places = candidate.measurement.arrays.get("item", range(len(candidate["log_probabilities"])))
    return lambda index: regression(candidate.data, int(places[index]), unit=unit)


def _class_divergence(
    baseline: Scored, candidate: Scored, name: str, maximum: float, unit: str
) -> MetricResult:
    by_name = _class_divergences(baseline, candidate)
    values, documents = by_name[name], _class_documents(baseline, candidate)
    return MetricResult(
        estimate=bounded_mean(values, documents, (0.0, maximum)),
        baseline=0.0,
        candidate=float(values.mean()),
        worst=worst_items(values, describe_predictions(candidate, unit)),
        facts={
            "kl_from_baseline": float(by_name[KL_FORWARD].mean()),
            "kl_to_baseline": float(by_name[KL_BACKWARD].mean()),
        },
        items=ItemValues.of(MEAN, values, documents, baseline),
    )


Divergence = partial(
    Metric, unit=NATS, scored="predicted", lm_eval=(CHOICES,), counted="documents",
    is_distance=True, needs={**NEEDS_TOKENS, **NEEDS_CLASSES, EXTRACTIVE: ("answers",)},
)  # fmt: skip
"""A metric of the divergence of predictions."""
register(Divergence(
    name="js_divergence", title="JS", label="JS divergence", function=js_divergence, order=20,
    promise="predictions diverge by at most {limit} (Jensen-Shannon)", ceiling=MAX_JS,
))  # fmt: skip
register(Divergence(
    name="kl_from_baseline", title="KL from", label="KL divergence from the baseline", order=21,
    promise="KL(baseline || candidate) is at most {limit}", function=kl_from_baseline,
))  # fmt: skip
register(Divergence(
    name="kl_to_baseline", title="KL to", label="KL divergence to the baseline", order=22,
    promise="KL(candidate || baseline) is at most {limit}", function=kl_to_baseline,
))  # fmt: skip
