"""Continuations in which a token flips although the baseline is confident of it."""

import numpy as np

from compression_gates.evals.metrics.continuation_agreement import (
    ContinuationMetric,
    judged_if_confident,
    sure_tokens,
)
from compression_gates.evals.metrics.generations import finite_values
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.regressions import Regression, regression, worst_items
from compression_gates.evals.metrics.result import MetricResult, Scored
from compression_gates.evals.statistics.item_values import PROPORTION, ItemValues
from compression_gates.evals.statistics.proportions import clustered_proportion

SHOWN = 30
"""Characters of a continuation that are shown before the token that flips."""


@judged_if_confident
def confident_flips(baseline: Scored, candidate: Scored) -> MetricResult:
    """Return the share of the baseline's continuations along which the candidate prefers another
    token where the baseline is confident (:data:`SURE`).

    Continuations without such a token are left out, unless the candidate's logits are not finite.
    """
    sure = sure_tokens(baseline)
    changed = candidate["choices"] != baseline["tokens"]
    flipped = sure & changed
    counted = sure.any(axis=1) | ~candidate["finite"]
    hits = finite_values(baseline, candidate, flipped.any(axis=1).astype(float))
    losses = np.where(counted, hits + flipped.sum(axis=1) / sure.shape[1], 0.0)
    documents = np.asarray(baseline.data.documents)[counted]
    return MetricResult(
        estimate=clustered_proportion(hits[counted], documents),
        baseline=0.0,
        candidate=float(hits[counted].mean()),
        worst=worst_items(losses, lambda i: _first_flip(baseline, candidate, i, flipped[i])),
        facts={
            "sure_tokens": float(sure.sum()),
            "sure_tokens_flipped": float(flipped.sum()),
            # Among all tokens, whether or not the baseline is confident of them.
            "choices_flipped": float(changed[baseline["tokens"] >= 0].mean()),
        },
        items=ItemValues.of(PROPORTION, hits[counted], documents, baseline),
    )


def _first_flip(baseline: Scored, candidate: Scored, index: int, flipped: np.ndarray) -> Regression:
    """Describe the first confident token that flips, with the end of the text before it."""
    place = int(flipped.argmax())
    before = "".join(map(str, baseline["pieces"][index][:place]))
    if len(before) > SHOWN:
        before = f"…{before[-SHOWN:]}"
    return regression(
        candidate.data,
        index,
        baseline=f"{before}{baseline['pieces'][index][place]}",
        candidate=f"{before}{candidate['choice_pieces'][index][place]}",
    )


register(ContinuationMetric(
    name="confident_flips", title="confident flips",
    promise="at most {limit} of the continuations flip a token that the baseline is confident of",
    function=confident_flips, order=50,
))  # fmt: skip
