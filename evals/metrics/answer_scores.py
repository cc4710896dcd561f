"""Exact match and F1 of short answers, as SQuAD defines them (Rajpurkar et al. 2016, section 6.1).

Answers are compared in a normal form: SQuAD's own for questions on a passage, otherwise one that
keeps symbols; see :mod:`evals.metrics.normal_forms`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, EXTRACTIVE, SEQ2SEQ
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.metrics.metric import ScoreDrop
from compression_gates.evals.metrics.normal_forms import form_of, squad
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.regressions import Regression, regression, worst_items
from compression_gates.evals.metrics.result import (
    MetricResult,
    Scored,
    at_chance,
    check_paired,
    no_data,
)
from compression_gates.evals.statistics.changes import clustered_sign_test
from compression_gates.evals.statistics.item_values import SCORE_CHANGE, ItemValues
from compression_gates.evals.statistics.proportions import (
    clustered_proportion,
    clustered_score_change,
)

NEEDS_ANSWERS: Mapping[str, tuple[str, ...]] = dict.fromkeys(
    (CAUSAL, SEQ2SEQ, EXTRACTIVE), ("answers",)
)
"""Roles of data that a metric of short answers needs, by kind of model."""
NAMES = {"exact_match": "exact match", "f1": "F1", "rouge1": "ROUGE-1"}
"""Names of the scores in messages."""


def exact_match(expected: str, got: str, normalize: Callable[[str], str] = squad) -> float:
    """Return 1 if the normal forms of two answers are equal, otherwise 0."""
    return float(normalize(expected) == normalize(got))


def f1(expected: str, got: str, normalize: Callable[[str], str] = squad) -> float:
    """Return the harmonic mean of precision and recall over the bags of words of the normal forms.

    It is 1 if both answers are empty, and 0 if only one is.

    >>> f1("a brass lantern", "the lantern")
    0.6666666666666666
    """
    expected_words, words = normalize(expected).split(), normalize(got).split()
    if not expected_words or not words:
        return float(expected_words == words)
    common = sum((Counter(expected_words) & Counter(words)).values())
    return 2 * common / (len(expected_words) + len(words))


def score_each(score: Callable[[str, str], float], scored: Scored) -> np.ndarray:
    """Return ``score(expected, got)`` of every prompt, ``(n,)``.

    The score is the maximum over the accepted answers, and NaN if the model's logits were not
    finite. A score from a log is returned as it is.
    """
    if _is_logged(score, scored):
        return scored[score.__name__]
    return np.where(scored["finite"], _scores(score, scored.data, scored["continuations"]), np.nan)


def _is_logged(score: Callable[[str, str], float], scored: Scored) -> bool:
    return score.__name__ in scored.measurement.arrays


def _scores(
    score: Callable[[str, str], float], data: DataSet, answers: Iterable[str]
) -> np.ndarray:
    """Return the ``score`` of an answer to each prompt, ``(n,)``, in the normal form of the data
    set."""
    if score in (exact_match, f1):
        score = partial(score, normalize=form_of(data)[0])
    return np.array(
        [
            max(score(expected, str(got)) for expected in (item.expected, *item.accepted))
            for item, got in zip(data.items, answers, strict=True)
        ]
    )


def chance_score(score: Callable[[str, str], float], data: DataSet) -> float:
    """Return the mean score of a model that gives the most frequent right answer to every prompt.

    If every answer occurs once, the prompt whose answer is given is left out.
    """
    normalize = form_of(data)[0]
    forms = [normalize(item.expected) for item in data.items]
    frequent, count = Counter(forms).most_common(1)[0]
    if count == 1 and (score is exact_match or len(forms) == 1):
        return 0.0
    index = forms.index(frequent)
    scores = _scores(score, data, [data.items[index].expected] * len(forms))
    return float((np.delete(scores, index) if count == 1 else scores).mean())


def mean_drop(
    score: Callable[[str, str], float], baseline: Scored | None, candidate: Scored | None
) -> MetricResult:
    """Return the drop of the mean ``score``, paired by prompt; not judged without prompts."""
    if baseline is None or candidate is None:
        return no_data("prompts with right answers")
    check_paired(baseline, candidate)
    before, after = score_each(score, baseline), score_each(score, candidate)
    is_logged, data = _is_logged(score, baseline), baseline.data
    protocol = ""
    if score in (exact_match, f1) and not is_logged:
        protocol = f"exact match and F1 on {data.name} in {form_of(data)[1]}"

    def describe(index: int) -> Regression:
        return regression(
            candidate.data,
            index,
            expected=candidate.data.items[index].expected,
            baseline=str(baseline["continuations"][index]),
            candidate=str(candidate["continuations"][index]),
        )

    percentage = f"{before.mean():.2%}" if before.any() else "0%"
    result = drop_result(
        baseline,
        before,
        after,
        chance=0.0 if is_logged else chance_score(score, data),
        score=f"{NAMES[score.__name__]} {percentage}",
        describe=describe,
        is_proportion=score is exact_match,
        protocol=protocol,
    )
    near_ties = [side.measurement.arrays.get("near_ties") for side in (baseline, candidate)]
    if any(array is None for array in near_ties):  # a log does not have them
        return result
    return replace(result, facts={**result.facts, "near_ties": float(np.any(near_ties, 0).sum())})


def drop_result(
    baseline: Scored,
    before: np.ndarray,
    after: np.ndarray,
    chance: float,
    score: str,
    describe: Callable[[int], Regression],
    is_proportion: bool,
    protocol: str = "",
) -> MetricResult:
    """Return the result of a drop of a mean score; not judged if the baseline is at chance level.

    Args:
        baseline: what the baseline scored.
        before, after: ``(n,)`` scores in [0, 1] of the baseline and of the candidate.
        chance: mean score of a model that guesses.
        score: the baseline's mean score in words.
        describe: describes the item at an index.
        is_proportion: whether scores are 0 or 1, so that the candidate's own mean has an interval.
        protocol: how the scores were measured.
    """
    documents = baseline.data.documents
    return MetricResult(
        estimate=clustered_score_change(before - after, documents),
        baseline=float(before.mean()),
        candidate=float(after.mean()),
        worst=worst_items(before - after, describe),
        facts=change_counts(before, after, documents) | {"guessing": chance},
        protocol=protocol,
        not_judged=at_chance(score) if before.mean() <= chance else "",
        level=clustered_proportion(after, documents) if is_proportion else None,
        items=ItemValues.of(SCORE_CHANGE, before - after, documents, baseline),
    )


def change_counts(before: np.ndarray, after: np.ndarray, documents: ArrayLike) -> dict[str, float]:
    """Return the numbers of items that got worse and better, and the p-value of the sign test by
    document, which is McNemar's test for right and wrong answers.

    Args:
        before, after: ``(n,)`` scores.
        documents: ``(n,)``, the document of each item.
    """
    worse, better = after < before, after > before
    return {
        "worse": float(worse.sum()),
        "better": float(better.sum()),
        "mcnemar_p": clustered_sign_test(worse.astype(int) - better, documents),
    }


def exact_match_drop(baseline: Scored | None, candidate: Scored | None) -> MetricResult:
    """Return the drop of the share of exactly right answers."""
    return mean_drop(exact_match, baseline, candidate)


def f1_drop(baseline: Scored | None, candidate: Scored | None) -> MetricResult:
    """Return the drop of the mean F1 of answers."""
    return mean_drop(f1, baseline, candidate)


register(ScoreDrop(
    name="exact_match_drop", title="EM", label="exact match", scored="answers", needs=NEEDS_ANSWERS,
    promise="exact match falls by at most {limit}", function=exact_match_drop, order=30,
    lm_eval=("exact_match",), protocol_title="answers", shows_changes=True,
))  # fmt: skip
register(ScoreDrop(
    name="f1_drop", title="F1", scored="answers", needs=NEEDS_ANSWERS, order=31,
    promise="F1 falls by at most {limit}", function=f1_drop, lm_eval=("f1",),
    protocol_title="answers",
))  # fmt: skip
