"""Accuracy of classifiers."""

import numpy as np

from compression_gates.evals.checkpoints.checkpoint import CLASSIFIER
from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.answers import changes
from compression_gates.evals.metrics.classification import described, predictions
from compression_gates.evals.metrics.divergence import check_same_classes
from compression_gates.evals.metrics.metric import ScoreDrop
from compression_gates.evals.metrics.reading import (
    Reading,
    Scored,
    at_chance,
    check_paired,
    no_data,
)
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.regressions import worst_items
from compression_gates.evals.statistics.item_values import SHARE, ItemValues
from compression_gates.evals.statistics.shares import clustered_proportion, clustered_share


def accuracy_drop(baseline: Scored | None, candidate: Scored | None) -> Reading:
    """Fall of the share of right predictions, paired by item; not judged without labels."""
    if baseline is None or candidate is None:
        return no_data("texts with labels")
    check_paired(baseline, candidate)
    if "right" in baseline.measurement.arrays:  # as it was logged
        before, after = baseline["right"], candidate["right"]
        guessing = _guessed_choices(baseline)
    else:
        check_same_classes(baseline, candidate)
        truth = labels(baseline)
        before, after = _right(baseline, truth), _right(candidate, truth)
        # Whoever always says the same class is right as often as it is there.
        guessing = float(np.bincount(truth).max() / len(truth))
    accuracy = float(before.mean())
    documents = baseline.data.documents
    return Reading(
        estimate=clustered_share(before - after, documents),
        baseline=accuracy,
        candidate=float(after.mean()),
        worst=worst_items(before - after, described(baseline, candidate)),
        facts=changes(before, after, documents) | {"guessing": guessing},
        not_judged=at_chance(f"an accuracy of {accuracy:.2%}") if accuracy <= guessing else "",
        level=clustered_proportion(after, documents),
        items=ItemValues.of(SHARE, before - after, documents, baseline),
    )


def labels(scored: Scored) -> np.ndarray:
    """``(n,)`` true classes.

    Raises:
        EvalError: a label beyond the model's classes.
    """
    found = np.array([item.label for item in scored.data.items])
    classes = scored["log_probabilities"].shape[1]
    if found.min() < 0 or found.max() >= classes:
        raise EvalError(
            f"data set {scored.data.name}: labels {found.min()} to {found.max()}, "
            f"but the model knows {classes} classes"
        )
    return found


def _guessed_choices(scored: Scored) -> float:
    """How often one of the choices is right by chance; 0 where the choices were not logged."""
    if "log_probabilities" not in scored.measurement.arrays:
        return 0.0
    return float((1 / np.isfinite(scored["log_probabilities"]).sum(axis=1)).mean())


def _right(scored: Scored, truth: np.ndarray) -> np.ndarray:
    """``(n,)`` 1 where the prediction is right, else 0; NaN where there is none, so that a model
    that breaks on few inputs fails instead of just being wrong on them."""
    predicted = predictions(scored)
    return np.where(predicted == -1, np.nan, predicted == truth)


register(ScoreDrop(
    name="accuracy_drop", title="accuracy", promise="accuracy falls by at most {limit}",
    function=accuracy_drop, scored="labels", needs={CLASSIFIER: ("labels",)},
    lm_eval=("acc", "acc_*"), order=40, shows_changes=True,
))  # fmt: skip
