"""Exact match and F1 of short answers, as SQuAD defines them (Rajpurkar et al. 2016, section 6.1).

Both sides are lower-cased, stripped of punctuation and articles, and split at white space.
"""

import re
import string
from collections import Counter
from collections.abc import Callable

import numpy as np

from evals.data import Prompt, Question
from evals.items import SHARE, ItemValues
from evals.reading import Reading, Scored, check_paired, snippet, worst_items
from evals.statistics import clustered_share, mcnemar

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


def mean_drop(score: Callable[[str, str], float], baseline: Scored, candidate: Scored) -> Reading:
    """How much the mean of ``score`` falls from baseline to candidate, paired by prompt."""
    check_paired(baseline, candidate)
    before, after = score_each(score, baseline), score_each(score, candidate)

    def describe(index: int) -> str:
        item = candidate.data.items[index]
        return (
            f"{snippet(_asked(item))}: expected {snippet(item.expected)}, baseline "
            f"{snippet(str(baseline['continuations'][index]))}, "
            f"candidate {snippet(str(candidate['continuations'][index]))}"
        )

    return Reading(
        estimate=clustered_share(before - after, baseline.data.documents),
        baseline=float(before.mean()),
        candidate=float(after.mean()),
        worst=worst_items(before - after, describe),
        facts=changes(before, after) | {"guessing": 0.0},
        items=ItemValues.of(SHARE, before - after, baseline.data.documents, baseline),
    )


def _asked(item: Prompt | Question) -> str:
    """What was asked, in a line."""
    if isinstance(item, Question):
        return item.question
    lines = item.prompt.rstrip().splitlines()
    return lines[-2] if len(lines) > 1 else lines[-1]


def changes(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """How many items got worse and how many better, and McNemar's p-value that it is chance."""
    losses, gains = int((after < before).sum()), int((after > before).sum())
    return {
        "worse": float(losses),
        "better": float(gains),
        "mcnemar_p": mcnemar(losses, gains),
    }


def exact_match_drop(baseline: Scored, candidate: Scored) -> Reading:
    """Fall of the share of exactly right answers."""
    return mean_drop(exact_match, baseline, candidate)


def f1_drop(baseline: Scored, candidate: Scored) -> Reading:
    """Fall of the mean F1 of answers."""
    return mean_drop(f1, baseline, candidate)
