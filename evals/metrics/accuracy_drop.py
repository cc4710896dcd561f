"""Accuracy of classifiers."""

import numpy as np

from compression_gates.evals.checkpoints.checkpoint import CLASSIFIER
from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.answer_scores import drop_result
from compression_gates.evals.metrics.classification import describe_items, predictions
from compression_gates.evals.metrics.metric import ScoreDrop
from compression_gates.evals.metrics.prediction_divergence import check_same_classes
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.result import MetricResult, Scored, check_paired, no_data


def accuracy_drop(baseline: Scored | None, candidate: Scored | None) -> MetricResult:
    """Return the drop of the accuracy, paired by item; not judged without labels."""
    if baseline is None or candidate is None:
        return no_data("texts with labels")
    check_paired(baseline, candidate)
    if "right" in baseline.measurement.arrays:  # from a log
        before, after = baseline["right"], candidate["right"]
        chance = _chance_of_choices(baseline)
    else:
        check_same_classes(baseline, candidate)
        truth = labels(baseline)
        before, after = _right(baseline, truth), _right(candidate, truth)
        # The accuracy of a model that always predicts the most frequent class.
        chance = float(np.bincount(truth).max() / len(truth))
    return drop_result(
        baseline,
        before,
        after,
        chance,
        score=f"an accuracy of {before.mean():.2%}",
        describe=describe_items(baseline, candidate),
        is_proportion=True,
    )


def labels(scored: Scored) -> np.ndarray:
    """Return the true classes, ``(n,)``.

    Raises:
        EvalError: a label is not one of the model's classes.
    """
    truth = np.array([item.label for item in scored.data.items])
    classes = scored["log_probabilities"].shape[1]
    if truth.min() < 0 or truth.max() >= classes:
        raise EvalError(
            f"data set {scored.data.name}: labels {truth.min()} to {truth.max()}, "
            f"but the model has {classes} classes"
        )
    return truth


def _chance_of_choices(scored: Scored) -> float:
    """Return the accuracy of choosing at random; 0 if the choices were not logged."""
    if "log_probabilities" not in scored.measurement.arrays:
        return 0.0
    return float((1 / np.isfinite(scored["log_probabilities"]).sum(axis=1)).mean())


def _right(scored: Scored, truth: np.ndarray) -> np.ndarray:
    """Return 1 for a right prediction and 0 for a wrong one, ``(n,)``.

    A missing prediction is NaN, so that a model that breaks on few inputs fails the gate.
    """
    predicted = predictions(scored)
    return np.where(predicted == -1, np.nan, predicted == truth)


register(ScoreDrop(
    name="accuracy_drop", title="accuracy", promise="accuracy falls by at most {limit}",
    function=accuracy_drop, scored="labels", needs={CLASSIFIER: ("labels",)},
    lm_eval=("acc", "acc_*"), order=40, shows_changes=True,
))  # fmt: skip
