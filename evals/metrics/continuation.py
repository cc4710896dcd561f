"""Agreement of what a candidate says with what its baseline says, without any right answer.

Both continue the same prompts greedily. Two continuations of high-entropy text part at the first
near-tie, between healthy models too, and have nothing in common from there on. So how far they
agree (:func:`continuation_parting`, :func:`continuation_changes`, :func:`continuation_rouge1_drop`)
tells an int8 from an int4, and little more. :func:`confident_flips` looks past near-ties: it holds
the candidate's first choices along the baseline's own continuation, and counts only tokens of
which the baseline was sure. A healthy candidate hardly ever changes one.
"""

import numpy as np

from compression_gates.evals.metrics.reading import Reading, Scored, check_paired, not_judged
from compression_gates.evals.metrics.regressions import Regression, regression, worst_items
from compression_gates.evals.metrics.rouge import rouge1
from compression_gates.evals.statistics.item_values import PROPORTION, SHARE, ItemValues
from compression_gates.evals.statistics.shares import clustered_proportion, clustered_share

SURE = 0.99
"""Probability of a token from which on a model is sure of it."""
FEWEST = 10
"""Continuations with a token that the baseline is sure of. With fewer, the baseline hardly knows
the text, so that what it says of it changes for no reason."""
SHOWN = 30
"""Characters of a continuation that are shown before the token at which it flips."""


def confident_flips(baseline: Scored, candidate: Scored) -> Reading:
    """Share of the baseline's continuations along which the candidate's first choice is another
    at a token to which the baseline gives a probability of at least :data:`SURE`.

    Counted are continuations with such a token; with fewer than :data:`FEWEST` there is nothing to
    judge.
    """
    check_paired(baseline, candidate)
    unsure = _unsure(baseline, candidate)
    if unsure is not None:
        return unsure
    sure = _sure(baseline)
    flipped = sure & (candidate["choices"] != baseline["tokens"])
    counted = sure.any(axis=1) | ~candidate["finite"]  # what is no number always counts
    hits = _numbers(baseline, candidate, flipped.any(axis=1).astype(float))
    losses = np.where(counted, hits + flipped.sum(axis=1) / sure.shape[1], 0.0)
    documents = _documents(baseline)[counted]
    return Reading(
        estimate=clustered_proportion(hits[counted], documents),
        baseline=0.0,
        candidate=float(hits[counted].mean()),
        worst=worst_items(losses, lambda i: _flip(baseline, candidate, i, flipped[i])),
        facts={
            "sure_tokens": float(sure.sum()),
            "sure_tokens_flipped": float(flipped.sum()),
            "choices_flipped": _choices_flipped(baseline, candidate),
        },
        items=ItemValues.of(PROPORTION, hits[counted], documents, baseline),
    )


def continuation_changes(baseline: Scored, candidate: Scored) -> Reading:
    """Share of prompts that the two continue differently, in any token."""
    check_paired(baseline, candidate)
    unsure = _unsure(baseline, candidate)
    if unsure is not None:
        return unsure
    parted = parting(baseline["tokens"], candidate["tokens"])
    changed = (parted < _lengths(baseline["tokens"], candidate["tokens"])).astype(float)
    changed = _numbers(baseline, candidate, changed)
    return Reading(
        estimate=clustered_proportion(changed, _documents(baseline)),
        baseline=0.0,
        candidate=float(changed.mean()),
        worst=worst_items(_losses(changed, parted), lambda i: _both(baseline, candidate, i)),
        facts={"tokens_until_parting": float(parted.mean())},
        items=ItemValues.of(PROPORTION, changed, _documents(baseline), baseline),
    )


def continuation_parting(baseline: Scored, candidate: Scored) -> Reading:
    """Share of the baseline's continuation that stands behind the first difference, on average.

    ``1 - (tokens before the first difference) / (tokens)``: 0 where two are identical, 1 where
    the first token differs. Of a candidate that goes on where the baseline ends, the longer
    continuation is what is divided by.
    """
    check_paired(baseline, candidate)
    unsure = _unsure(baseline, candidate)
    if unsure is not None:
        return unsure
    parted = parting(baseline["tokens"], candidate["tokens"])
    lengths = _lengths(baseline["tokens"], candidate["tokens"])
    lost = _numbers(baseline, candidate, 1 - parted / np.maximum(lengths, 1))
    return Reading(
        estimate=clustered_share(lost, _documents(baseline)),
        baseline=0.0,
        candidate=float(lost.mean()),
        worst=worst_items(lost, lambda i: _both(baseline, candidate, i)),
        facts={
            "tokens_until_parting": float(parted.mean()),
            "tokens_of_baseline": float((baseline["tokens"] >= 0).sum(axis=1).mean()),
            "identical": float((parted == lengths).mean()),
        },
        items=ItemValues.of(SHARE, lost, _documents(baseline), baseline),
    )


def continuation_rouge1_drop(baseline: Scored, candidate: Scored) -> Reading:
    """By how much the mean ROUGE-1 of the candidate's continuations against the baseline's falls
    short of 1, which is that of the baseline against itself."""
    check_paired(baseline, candidate)
    unsure = _unsure(baseline, candidate)
    if unsure is not None:
        return unsure
    pairs = zip(baseline["continuations"], candidate["continuations"], strict=True)
    scores = np.array([1.0 if one == two else rouge1(str(one), str(two)) for one, two in pairs])
    lost = _numbers(baseline, candidate, 1 - scores)
    return Reading(
        estimate=clustered_share(lost, _documents(baseline)),
        baseline=1.0,
        candidate=float(1 - lost.mean()),
        worst=worst_items(lost, lambda i: _both(baseline, candidate, i)),
        items=ItemValues.of(SHARE, lost, _documents(baseline), baseline),
    )


def _sure(baseline: Scored) -> np.ndarray:
    """``(prompts, new)`` tokens that the baseline is sure of."""
    return baseline["chances"] >= SURE


def _unsure(baseline: Scored, candidate: Scored) -> Reading | None:
    """What is read of continuations in which the baseline is sure of too little, or says next to
    nothing; None where it says enough, or where the candidate computed NaN, which is a failure all
    the same."""
    if not candidate["finite"].all():
        return None
    said, total = baseline["tokens"], len(baseline.data.items)
    long = (said >= 0).sum(axis=1) > 1
    if total - long.sum() > total / 2:
        return not_judged(
            f"the baseline ends {total - long.sum()} of {total} continuations with their first "
            "token; give prompts that it has something to say to"
        )
    if total > 1 and (said == said[0]).all():
        return not_judged(f"the baseline continues all of {total} prompts with the same tokens")
    counted = int((_sure(baseline).any(axis=1) & long).sum())
    if counted >= FEWEST:
        return None
    return not_judged(
        f"{counted} of {len(baseline.data.items)} continuations have a token to which the baseline "
        f"gives a probability of {SURE:.0%}, and {FEWEST} are needed; give more text, of a kind "
        "that the baseline knows"
    )


def parting(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Tokens before the first difference of two continuations.

    Args:
        one, two: ``(prompts, new)`` tokens, -1 behind the end.

    Returns:
        ``(prompts,)`` integers; the whole length where there is no difference.

    >>> parting(np.array([[5, 6, -1], [5, 6, 7]]), np.array([[5, 6, -1], [5, 9, 7]]))
    array([2, 1])
    """
    differs = one != two
    first = np.where(differs.any(axis=1), differs.argmax(axis=1), one.shape[1])
    return np.minimum(first, _lengths(one, two))


def _lengths(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Tokens of the longer of two continuations."""
    return np.maximum((one >= 0).sum(axis=1), (two >= 0).sum(axis=1))


def _numbers(baseline: Scored, candidate: Scored, values: np.ndarray) -> np.ndarray:
    """Values of prompts, NaN where a model computed no number."""
    return np.where(baseline["finite"] & candidate["finite"], values, np.nan)


def _documents(scored: Scored) -> np.ndarray:
    return np.asarray(scored.data.documents)


def _choices_flipped(baseline: Scored, candidate: Scored) -> float:
    """Share of all tokens of the baseline's continuations at which the candidate's first choice
    is another, near-ties included."""
    said = baseline["tokens"] >= 0
    return float((candidate["choices"] != baseline["tokens"])[said].mean())


def _losses(changed: np.ndarray, parted: np.ndarray) -> np.ndarray:
    """What changed, the earlier the worse."""
    return changed * (1 + 1 / (1 + parted))


def _both(baseline: Scored, candidate: Scored, index: int) -> Regression:
    one, two = (str(side["continuations"][index]) for side in (baseline, candidate))
    return regression(candidate.data, index, baseline=one, candidate=two)


def _flip(baseline: Scored, candidate: Scored, index: int, flipped: np.ndarray) -> Regression:
    """The first confident token that flips, behind the end of what precedes it."""
    at = int(flipped.argmax())
    before = "".join(map(str, baseline["pieces"][index][:at]))
    if len(before) > SHOWN:
        before = f"…{before[-SHOWN:]}"
    return regression(
        candidate.data,
        index,
        baseline=f"{before}{baseline['pieces'][index][at]}",
        candidate=f"{before}{candidate['choice_pieces'][index][at]}",
    )
