"""Exact match and F1 of short answers, as SQuAD defines them (Rajpurkar et al. 2016, section 6.1).

Both sides are lower-cased, stripped of punctuation and articles, and split at white space.
"""

import re
import string
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from evals.items import SHARE, ItemValues
from evals.reading import Reading, Scored, at_chance, check_paired, no_data
from evals.regressions import Regression, regression, worst_items
from evals.statistics import clustered_mcnemar, clustered_proportion, clustered_share

NAMES = {"exact_match": "exact match", "f1": "F1", "rouge1": "ROUGE-1"}
"""Of scores, in sentences."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(answer: str) -> str:
    """SQuAD's normal form.

    >>> normalize("The  Old-Mill.")
    'oldmill'
    """
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(expected: str, got: str) -> float:
    """1 if the normal forms are the same, else 0."""
    return float(normalize(expected) == normalize(got))


def f1(expected: str, got: str) -> float:
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
    if score.__name__ in scored.measurement.arrays:
        return scored[score.__name__]
    pairs = zip(scored.data.items, scored["continuations"], strict=True)
    scores = np.array(
        [
            max(score(right, str(got)) for right in (item.expected, *item.accepted))
            for item, got in pairs
        ]
    )
    return np.where(scored["finite"], scores, np.nan)


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
    if before.mean() == 0 and np.isfinite(after).all():
        return at_chance(f"{NAMES[score.__name__]} 0%", 0.0)
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
        facts=changes(before, after, documents) | {"guessing": 0.0},
        level=clustered_proportion(after, documents) if score is exact_match else None,
        items=ItemValues.of(SHARE, before - after, documents, baseline),
    )


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
