"""ROUGE-1 of continuations against the baseline's own."""

import numpy as np

from compression_gates.evals.metrics.continuation import (
    ContinuationMetric,
    both,
    documents_of,
    numbers,
    unsure,
)
from compression_gates.evals.metrics.reading import Reading, Scored, check_paired
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.regressions import worst_items
from compression_gates.evals.metrics.rouge1_drop import rouge1
from compression_gates.evals.metrics.units import PERCENT, POINTS
from compression_gates.evals.statistics.item_values import SHARE, ItemValues
from compression_gates.evals.statistics.shares import clustered_share


def continuation_rouge1_drop(baseline: Scored, candidate: Scored) -> Reading:
    """By how much the mean ROUGE-1 of the candidate's continuations against the baseline's falls
    short of 1, which is that of the baseline against itself."""
    check_paired(baseline, candidate)
    skipped = unsure(baseline, candidate)
    if skipped is not None:
        return skipped
    pairs = zip(baseline["continuations"], candidate["continuations"], strict=True)
    scores = np.array([1.0 if one == two else rouge1(str(one), str(two)) for one, two in pairs])
    lost = numbers(baseline, candidate, 1 - scores)
    return Reading(
        estimate=clustered_share(lost, documents_of(baseline)),
        baseline=1.0,
        candidate=float(1 - lost.mean()),
        worst=worst_items(lost, lambda i: both(baseline, candidate, i)),
        items=ItemValues.of(SHARE, lost, documents_of(baseline), baseline),
    )


register(ContinuationMetric(
    name="continuation_rouge1_drop", title="cont. ROUGE-1", label="ROUGE-1 of continuations",
    promise="ROUGE-1 of continuations against the baseline's own is at most {limit} below 100%",
    unit=POINTS, level_unit=PERCENT, function=continuation_rouge1_drop, order=53, drop=True,
))  # fmt: skip
