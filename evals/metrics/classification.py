"""Accuracy of classifiers, and the predictions that compression flips."""

import numpy as np

from evals.errors import EvalError
from evals.items import PROPORTION, SHARE, ItemValues
from evals.metrics.answers import changes
from evals.metrics.divergence import check_same_classes
from evals.reading import Reading, Scored, check_paired, snippet, worst_items
from evals.statistics import clustered_proportion, clustered_share


def predictions(scored: Scored) -> np.ndarray:
    """``(n,)`` most likely class. A row that is not a distribution predicts -1, never a class."""
    log_probabilities = scored["log_probabilities"]
    likely = log_probabilities.argmax(axis=1)
    return np.where(np.isnan(log_probabilities).any(axis=1), -1, likely)


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


def accuracy_drop(baseline: Scored, candidate: Scored) -> Reading:
    """Fall of the share of right predictions, paired by item."""
    check_paired(baseline, candidate)
    guessing = {}
    if "right" in baseline.measurement.arrays:  # as it was logged
        before, after = baseline["right"], candidate["right"]
    else:
        check_same_classes(baseline, candidate)
        truth = labels(baseline)
        before, after = _right(baseline, truth), _right(candidate, truth)
        # Whoever always says the same class is right as often as it is there.
        guessing = {"guessing": float(np.bincount(truth).max() / len(truth))}
    return Reading(
        estimate=clustered_share(before - after, baseline.data.documents),
        baseline=float(before.mean()),
        candidate=float(after.mean()),
        worst=worst_items(before - after, lambda i: _describe(baseline, candidate, i)),
        facts=changes(before, after) | guessing,
        items=ItemValues.of(SHARE, before - after, baseline.data.documents, baseline),
    )


def _right(scored: Scored, truth: np.ndarray) -> np.ndarray:
    """``(n,)`` 1 where the prediction is right, else 0; NaN where there is none, so that a model
    that breaks on few inputs fails instead of just being wrong on them."""
    predicted = predictions(scored)
    return np.where(predicted == -1, np.nan, predicted == truth)


def flips(baseline: Scored, candidate: Scored) -> Reading:
    """Share of items whose prediction changes, right or wrong (Dutta et al. 2024).

    Accuracy can stay while many answers change; users notice.
    """
    check_paired(baseline, candidate)
    check_same_classes(baseline, candidate)
    before, after = predictions(baseline), predictions(candidate)
    flipped = np.where((before == -1) | (after == -1), np.nan, before != after)
    return Reading(
        estimate=clustered_proportion(flipped, baseline.data.documents),
        baseline=0.0,
        candidate=float(flipped.mean()),
        worst=worst_items(flipped, lambda i: _describe(baseline, candidate, i)),
        items=ItemValues.of(PROPORTION, flipped, baseline.data.documents, baseline),
    )


def _describe(baseline: Scored, candidate: Scored, index: int) -> str:
    item = candidate.data.items[index]
    if "right" in baseline.measurement.arrays:
        before, after = ("right" if side["right"][index] else "wrong" for side in
                         (baseline, candidate))  # fmt: skip
        return f"{snippet(item.text)}: baseline {before}, candidate {after}"
    label = getattr(item, "label", None)
    expected = "" if label is None else f"expected {label}, "
    before, after = predictions(baseline)[index], predictions(candidate)[index]
    return f"{snippet(item.text)}: {expected}baseline {before}, candidate {after}"
