"""Accuracy of classifiers, and the predictions that compression flips."""

from collections.abc import Callable

import numpy as np

from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.answers import changes
from compression_gates.evals.metrics.divergence import check_same_classes
from compression_gates.evals.metrics.reading import (
    Reading,
    Scored,
    at_chance,
    check_paired,
    no_data,
)
from compression_gates.evals.metrics.regressions import (
    PROMPT_WIDTH,
    Regression,
    regression,
    worst_items,
)
from compression_gates.evals.statistics.item_values import PROPORTION, SHARE, ItemValues
from compression_gates.evals.statistics.shares import clustered_proportion, clustered_share


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
        worst=worst_items(before - after, _described(baseline, candidate)),
        facts=changes(before, after, documents) | {"guessing": guessing},
        not_judged=at_chance(f"an accuracy of {accuracy:.2%}") if accuracy <= guessing else "",
        level=clustered_proportion(after, documents),
        items=ItemValues.of(SHARE, before - after, documents, baseline),
    )


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


def flips(baseline: Scored, candidate: Scored) -> Reading:
    """Share of items whose prediction changes, right or wrong (Dutta et al. 2024).

    Accuracy can stay while many answers change; users notice.
    """
    check_paired(baseline, candidate)
    check_same_classes(baseline, candidate)
    before, after = predictions(baseline), predictions(candidate)
    is_constant = len(before) > 1 and (before == before[0]).all()
    flipped = np.where((before == -1) | (after == -1), np.nan, before != after)
    return Reading(
        estimate=clustered_proportion(flipped, baseline.data.documents),
        baseline=0.0,
        candidate=float(flipped.mean()),
        worst=worst_items(flipped, _described(baseline, candidate)),
        not_judged=at_chance("the same class for every text") if is_constant else "",
        items=ItemValues.of(PROPORTION, flipped, baseline.data.documents, baseline),
    )


def _described(baseline: Scored, candidate: Scored) -> Callable[[int], Regression]:
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
