"""Continuations that flip where the baseline is sure."""

import numpy as np

from compression_gates.evals.metrics.continuation import (
    ContinuationMetric,
    documents_of,
    numbers,
    sure_tokens,
    unsure,
)
from compression_gates.evals.metrics.reading import Reading, Scored, check_paired
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.regressions import Regression, regression, worst_items
from compression_gates.evals.statistics.item_values import PROPORTION, ItemValues
from compression_gates.evals.statistics.shares import clustered_proportion

SHOWN = 30
"""Characters of a continuation that are shown before the token at which it flips."""


def confident_flips(baseline: Scored, candidate: Scored) -> Reading:
    """Share of the baseline's continuations along which the candidate's first choice is another
    at a token to which the baseline gives a probability of at least :data:`SURE`.

    Counted are continuations with such a token; with fewer than :data:`FEWEST` there is nothing to
    judge.
    """
    check_paired(baseline, candidate)
    skipped = unsure(baseline, candidate)
    if skipped is not None:
        return skipped
    sure = sure_tokens(baseline)
    flipped = sure & (candidate["choices"] != baseline["tokens"])
    counted = sure.any(axis=1) | ~candidate["finite"]  # what is no number always counts
    hits = numbers(baseline, candidate, flipped.any(axis=1).astype(float))
    losses = np.where(counted, hits + flipped.sum(axis=1) / sure.shape[1], 0.0)
    documents = documents_of(baseline)[counted]
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


def _choices_flipped(baseline: Scored, candidate: Scored) -> float:
    """Share of all tokens of the baseline's continuations at which the candidate's first choice
    is another, near-ties included."""
    said = baseline["tokens"] >= 0
    return float((candidate["choices"] != baseline["tokens"])[said].mean())


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


register(ContinuationMetric(
    name="confident_flips", title="confident flips",
    promise="at most {limit} of the continuations flip a token that the baseline is confident of",
    function=confident_flips, order=50,
))  # fmt: skip
