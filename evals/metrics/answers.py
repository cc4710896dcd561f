"""Exact match and F1 of short answers, as SQuAD defines them (Rajpurkar et al. 2016, section 6.1).

Both sides are compared in a normal form, which is SQuAD's own for questions on a passage and keeps
symbols otherwise, see :mod:`evals.metrics.normal_forms`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, EXTRACTIVE, SEQ2SEQ
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.metrics.metric import ScoreDrop
from compression_gates.evals.metrics.normal_forms import form_of, squad
from compression_gates.evals.metrics.reading import (
    Reading,
    Scored,
    at_chance,
    check_paired,
    no_data,
)
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.regressions import Regression, regression, worst_items
from compression_gates.evals.statistics.changes import clustered_mcnemar
from compression_gates.evals.statistics.item_values import SHARE, ItemValues
from compression_gates.evals.statistics.shares import clustered_proportion, clustered_share

ANSWERED: Mapping[str, tuple[str, ...]] = dict.fromkeys((CAUSAL, SEQ2SEQ, EXTRACTIVE), ("answers",))
"""Needs of a metric of short answers."""
NAMES = {"exact_match": "exact match", "f1": "F1", "rouge1": "ROUGE-1"}
"""Of scores, in sentences."""


def exact_match(expected: str, got: str, normalize: Callable[[str], str] = squad) -> float:
    """1 if the normal forms are the same, else 0."""
    return float(normalize(expected) == normalize(got))


def f1(expected: str, got: str, normalize: Callable[[str], str] = squad) -> float:
    """Harmonic mean of precision and recall over the bags of words of the normal forms.

    Two empty answers agree; an empty and a full one do not.

    >>> f1("a brass lantern", "the lantern")
    0.6666666666666666
    """
    want, have = normalize(expected).split(), normalize(got).split()
    if not want or not have:
        return float(want == have)
    common = sum((Counter(want) & Counter(have)).values())
    return 2 * common / (len(want) + len(have))


def score_each(score: Callable[[str, str], float], scored: Scored) -> np.ndarray:
    """``score(expected, got)`` of every prompt, ``(n,)``, the best over all that is accepted; NaN
    where the model computed none. A score that was logged is taken as it is."""
    if _is_logged(score, scored):
        return scored[score.__name__]
    return np.where(scored["finite"], _scores(score, scored.data, scored["continuations"]), np.nan)


def _is_logged(score: Callable[[str, str], float], scored: Scored) -> bool:
    return score.__name__ in scored.measurement.arrays


def _scores(
    score: Callable[[str, str], float], data: DataSet, answers: Iterable[str]
) -> np.ndarray:
    """``score`` of an answer to each prompt, ``(n,)``, in the data set's normal form."""
    if score in (exact_match, f1):
        score = partial(score, normalize=form_of(data)[0])
    return np.array(
        [
            max(score(right, str(got)) for right in (item.expected, *item.accepted))
            for item, got in zip(data.items, answers, strict=True)
        ]
    )


def guessing(score: Callable[[str, str], float], data: DataSet) -> float:
    """What the most frequent right answer scores where it is given to every prompt: a model that
    scores no more has nothing to lose. An answer that is right once is not given to its own."""
    normalize = form_of(data)[0]
    forms = [normalize(item.expected) for item in data.items]
    frequent, count = Counter(forms).most_common(1)[0]
    if count == 1 and (score is exact_match or len(forms) == 1):
        return 0.0
    place = forms.index(frequent)
    scores = _scores(score, data, [data.items[place].expected] * len(forms))
    return float((np.delete(scores, place) if count == 1 else scores).mean())


def mean_drop(
    score: Callable[[str, str], float], baseline: Scored | None, candidate: Scored | None
) -> Reading:
    """How much the mean of ``score`` falls from baseline to candidate, paired by prompt.

    Without prompts it is not judged.
    """
    if baseline is None or candidate is None:
        return no_data("prompts with right answers")
    check_paired(baseline, candidate)
    before, after = score_each(score, baseline), score_each(score, candidate)
    logged = _is_logged(score, baseline)
    told = "" if logged or score not in (exact_match, f1) else _protocol(baseline.data)
    floor = 0.0 if logged else guessing(score, baseline.data)
    documents = baseline.data.documents

    def describe(index: int) -> Regression:
        return regression(
            candidate.data,
            index,
            expected=candidate.data.items[index].expected,
            baseline=str(baseline["continuations"][index]),
            candidate=str(candidate["continuations"][index]),
        )

    return Reading(
        estimate=clustered_share(before - after, documents),
        baseline=float(before.mean()),
        candidate=float(after.mean()),
        worst=worst_items(before - after, describe),
        facts=changes(before, after, documents) | {"guessing": floor},
        protocol=told,
        not_judged=at_chance(_level(score, before)) if before.mean() <= floor else "",
        level=clustered_proportion(after, documents) if score is exact_match else None,
        items=ItemValues.of(SHARE, before - after, documents, baseline),
    )


def _level(score: Callable[[str, str], float], values: np.ndarray) -> str:
    share = f"{values.mean():.2%}" if values.any() else "0%"
    return f"{NAMES[score.__name__]} {share}"


def _protocol(data: DataSet) -> str:
    return f"exact match and F1 on {data.name} in {form_of(data)[1]}"


def changes(before: np.ndarray, after: np.ndarray, documents: ArrayLike) -> dict[str, float]:
    """How many items got worse and how many better, and the p-value that it is chance: McNemar's,
    by document where several items share one."""
    worse, better = after < before, after > before
    return {
        "worse": float(worse.sum()),
        "better": float(better.sum()),
        "mcnemar_p": clustered_mcnemar(worse.astype(int) - better, documents),
    }


def exact_match_drop(baseline: Scored | None, candidate: Scored | None) -> Reading:
    """Fall of the share of exactly right answers."""
    return mean_drop(exact_match, baseline, candidate)


def f1_drop(baseline: Scored | None, candidate: Scored | None) -> Reading:
    """Fall of the mean F1 of answers."""
    return mean_drop(f1, baseline, candidate)


register(ScoreDrop(
    name="exact_match_drop", title="EM", label="exact match", scored="answers", needs=ANSWERED,
    promise="exact match falls by at most {limit}", function=exact_match_drop, order=30,
    lm_eval=("exact_match",), protocol_title="answers", shows_changes=True,
))  # fmt: skip
register(ScoreDrop(
    name="f1_drop", title="F1", scored="answers", needs=ANSWERED, order=31,
    promise="F1 falls by at most {limit}", function=f1_drop, lm_eval=("f1",),
    protocol_title="answers",
))  # fmt: skip
